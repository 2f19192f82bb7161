"""Tests of `opengte.search.ingest`."""
