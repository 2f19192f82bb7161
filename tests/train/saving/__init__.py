"""Tests of `opengte.train.saving`."""
