"""The models that are trained: loading, heads, low-rank adapters."""
