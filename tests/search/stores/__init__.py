"""Tests of `opengte.search.stores`."""
