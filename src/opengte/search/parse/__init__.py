"""Files to documents: one parser a format, run in a child process with limits."""
