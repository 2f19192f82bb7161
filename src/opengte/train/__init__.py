"""Training: any model of `reference/`, correct first, proved invariant, then fast."""
