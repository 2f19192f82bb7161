"""The servers that `bench/serve_load.py` compares, and the load that it puts on them."""
