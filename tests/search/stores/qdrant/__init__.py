"""Tests of `opengte.search.stores.qdrant`."""
