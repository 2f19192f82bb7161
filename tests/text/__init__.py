"""Tests of `opengte.text`."""
