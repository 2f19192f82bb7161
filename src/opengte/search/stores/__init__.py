"""Where a knowledge base keeps its documents: one protocol, and what fulfils it."""

import os

# LanceDB reads this when it is imported; its warnings are about its own parts, hundreds of lines
os.environ.setdefault("LANCEDB_LOG", "error")
