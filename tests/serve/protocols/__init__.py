"""Tests of `opengte.serve.protocols`."""
