"""Find the passage that answers a question.

`kb.KnowledgeBase` indexes documents once and searches them many times: `parse` reads files,
`windows` and `vectors` turn a document into vectors, `stores` keep it, `indexing` and `commits`
bring a store up to date, `query` searches it, `explain` and `status` say how it went.

`folder.search` needs no index: it reads the files, embeds every passage and keeps the best: good
for a folder and a first look.
"""
