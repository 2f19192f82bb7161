"""HTTP layer: application, routes, request bodies, headers and errors."""
