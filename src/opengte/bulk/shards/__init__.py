"""Many files of texts to many files of vectors: planned once, computed in shards on any machine."""
