"""The search page, its JSON API, and the tools that agents use."""
