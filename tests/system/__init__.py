"""Tests that need a program of the system, or a cluster."""
