"""Admission control, batch scheduling, and the threads that run the engines."""
