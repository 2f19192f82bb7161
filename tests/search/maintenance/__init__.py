"""Tests of `opengte.search.maintenance`."""
