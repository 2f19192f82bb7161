"""Logs, metrics, traces and load history."""
