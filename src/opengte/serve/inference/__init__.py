"""The inference service behind every protocol: models, batch scheduling, caching."""
