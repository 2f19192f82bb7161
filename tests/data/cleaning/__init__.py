"""Tests of `opengte.data.cleaning`."""
