"""Where a knowledge base keeps its rows: one protocol, one adapter a store."""
