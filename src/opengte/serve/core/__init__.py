"""Modules that are still to be merged into `inference` and `config`."""
