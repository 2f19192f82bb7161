"""Pipelines of others that index texts: what the knowledge base is timed beside."""
