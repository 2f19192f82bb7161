"""Tests of `opengte.cli`."""
