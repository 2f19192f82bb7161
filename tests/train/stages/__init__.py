"""Tests of `opengte.train.stages`."""
