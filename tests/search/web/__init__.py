"""Tests of `opengte.search.web`."""
