"""Tests of `opengte.serve.inference.scheduling`."""
