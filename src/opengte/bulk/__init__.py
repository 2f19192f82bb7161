"""Embedding of whole files, resumable: readers, writers and the job that joins them."""
