"""One embedding service that speaks every client's protocol.

protocols/   bodies of OpenAI, TEI, Cohere, ... <-> the one internal request (request.py)
service      models, scheduling, cache: answers internal requests
app          routes and middleware; operation: keys, limits, usage, metrics, traces, logs
"""
