"""Text preparation: per-request options, tokenization, and the way back to text."""
