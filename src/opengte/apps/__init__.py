"""Applications that combine several packages, such as a server with a knowledge base."""
