"""Tests of `opengte.train`."""
