"""Tests that need a program of the system."""
