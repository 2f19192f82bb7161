"""Tests of `opengte.data.preparation`."""
