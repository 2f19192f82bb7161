"""Integrations: an MCP server, and adapters for LangChain, LlamaIndex and Haystack.

Each module needs its framework; only `gte mcp` imports from here.
"""
