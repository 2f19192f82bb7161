"""Tests of `opengte.bulk`."""
