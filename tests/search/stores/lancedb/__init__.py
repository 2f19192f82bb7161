"""Tests of `opengte.search.stores.lancedb`."""
