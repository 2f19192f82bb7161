"""Evaluation: published benchmarks with mteb, and decisions on one's own data.

`mteb_*` modules import mteb and need the extra `eval`; the others do not.
"""
