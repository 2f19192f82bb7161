"""Stores of documents and vectors: one protocol (`base.Store`) and its implementations."""

import os

# LanceDB reads this when it is imported; its warnings are about its own parts, hundreds of lines
os.environ.setdefault("LANCEDB_LOG", "error")
