"""Retrieval: the legs (dense, learned sparse, BM25), fusion, MMR, reranking."""
