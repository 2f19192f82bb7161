"""Tests of `opengte.data.mining`."""
