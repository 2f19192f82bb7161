"""Tests of `opengte.data.shards`."""
