"""Processes, sockets, workers and the assembly of a server."""
