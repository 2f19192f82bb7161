"""Ingestion: split documents, embed them, write them to a store."""
