"""Tests of `opengte.data`."""
