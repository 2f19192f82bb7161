"""Tests of `opengte.search.stores.postgres`."""
