"""Search documents: find the passages that answer a query.

`kb.KnowledgeBase` indexes documents once and searches them many times. `adhoc.search` needs no
index: it reads and embeds the files on every call.

From the top, each floor importing only what is below it:

    web                           the search page, its API, and tools for agents
    kb                            what users call; a handle that follows migrations
    maintenance                   migration, comparison, explanation, status, export
    calibration | analysis        confidence of answers; clusters, map, facets, duplicates
    handle                        follows an index from one generation to the next
    index                         one generation of an index: store, settings, model
    retrieval | adhoc             legs, fusion, MMR, reranking; search without an index
    ingest | access               splitting, embedding, writing; row-level access control
    stores                        LanceDB, PostgreSQL, Qdrant, memory; BM25 is in each of them
    parse                         files to documents
    filters | minhash | model_identity
"""
