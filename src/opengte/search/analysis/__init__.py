"""Analysis of a knowledge base: clusters, map, facets, duplicates."""
