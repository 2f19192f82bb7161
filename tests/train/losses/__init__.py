"""Tests of `opengte.train.losses`."""
