"""The console: pages of models, accounts, keys and credit, for `gte serve --console`."""
