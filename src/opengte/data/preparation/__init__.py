"""From source files to a folder of tokenised shards, resumable."""
