"""Tests of `opengte.serve`."""
