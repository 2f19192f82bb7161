"""An embedding server that speaks the protocol of every client.

protocols/   wire formats of OpenAI, TEI, Cohere, ... <-> internal requests (types.py)
inference/   models, scheduling, cache: answers internal requests
auth/        API keys, rate limits, usage
http/        routes and middleware
observability/  metrics, logs, traces, load history
config/      settings and their sources
runtime/     processes, workers, connections
"""
