"""Tests of `opengte.arch`."""
