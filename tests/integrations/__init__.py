"""Tests of `opengte.integrations`."""
