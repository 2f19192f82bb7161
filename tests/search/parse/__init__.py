"""Tests of `opengte.search.parse`."""
