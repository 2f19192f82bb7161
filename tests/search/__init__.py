"""Tests of `opengte.search`."""
