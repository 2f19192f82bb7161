"""Tests of `opengte.reference`."""
