"""Tests of `opengte.serve.http.middleware`."""
