"""Tests of `opengte.engine`."""
