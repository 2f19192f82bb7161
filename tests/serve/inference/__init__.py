"""Tests of `opengte.serve.inference`."""
