"""Tests of `opengte.serve.inference.preprocessing`."""
