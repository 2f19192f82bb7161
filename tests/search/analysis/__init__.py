"""Tests of `opengte.search.analysis`."""
