"""Tests of `opengte.search.calibration`."""
