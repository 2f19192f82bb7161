"""One embedding service that speaks every client's protocol.

protocols/   bodies of OpenAI, TEI, Cohere, ... <-> the one internal request (types.py)
inference/   models, scheduling, cache: answers internal requests
http/        routes and middleware; operation: auth/, observability/, config/, runtime/
"""
