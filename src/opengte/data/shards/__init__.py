"""Tokenised shards on disk: the file format, and the data set that is made of them."""
