"""Find the passage that answers a question.

`kb.KnowledgeBase` indexes documents once and searches them many times: `parse` reads files,
`ingest` turns a document into vectors and brings a store up to date, `stores` keep it,
`retrieval` searches it, `maintenance` says how it went.

`adhoc.search` needs no index: it reads the files, embeds every passage and keeps the best: good
for a folder and a first look.
"""
