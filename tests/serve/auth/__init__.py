"""Tests of `opengte.serve.auth`."""
