"""Tests of `opengte.data.reading`."""
