"""API keys, rate limits and usage."""
