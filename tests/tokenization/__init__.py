"""Tests of `opengte.tokenization`."""
