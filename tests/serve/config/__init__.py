"""Tests of `opengte.serve.config`."""
