"""The stages of training, each a recipe with the paper's settings and a budget that scales it.

A stage takes a checkpoint and prepared data and writes a folder: `run/` has its checkpoints, tables
and plots, `model/` the finished model.
"""
