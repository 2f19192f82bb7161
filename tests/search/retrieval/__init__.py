"""Tests of `opengte.search.retrieval`."""
