"""Tests of `opengte.serve.runtime`."""
