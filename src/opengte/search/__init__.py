"""Search without an index: read the files, embed every passage, keep the best.

Useful for a folder, a first look, and as the oracle of every faster search. Not useful for a
collection that is searched more than once: each search embeds everything again.
"""
