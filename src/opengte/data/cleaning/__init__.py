"""Cleaning, filtering and deduplication of examples, and the report of what was dropped."""
