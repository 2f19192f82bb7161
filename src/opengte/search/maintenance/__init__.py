"""Maintenance of an index: status, migration, comparison, explanation, export."""
