"""How fast a model is on this machine or behind a server, and what a million tokens cost there."""
