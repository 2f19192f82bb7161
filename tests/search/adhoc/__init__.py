"""Tests of `opengte.search.adhoc`."""
