"""Tests of `opengte.hub`."""
