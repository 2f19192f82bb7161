"""Why answers of an index are poor, and what the next step would bring: see `review`."""
