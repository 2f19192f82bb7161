"""Tests of `opengte.encoder`."""
