"""Calibrated confidence of search results."""
