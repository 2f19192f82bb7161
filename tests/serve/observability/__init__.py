"""Tests of `opengte.serve.observability`."""
