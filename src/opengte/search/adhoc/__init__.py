"""Search without an index: reads and embeds the files on every call."""
