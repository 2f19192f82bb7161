"""Retrieval: legs, fusion, diversity."""
