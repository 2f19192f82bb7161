"""Tests of `opengte.data.sampling`."""
