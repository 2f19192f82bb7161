"""Where people use it: an MCP server and the frameworks, each in a file of its own.

Nothing here is imported by the rest of the package but by `gte mcp`; each file needs its framework.
"""
