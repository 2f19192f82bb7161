"""Tests of `opengte.serve.http`."""
