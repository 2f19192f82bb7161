"""Tests of `opengte.evaluate`."""
