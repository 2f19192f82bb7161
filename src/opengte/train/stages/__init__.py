"""The stages of training, each a recipe with the paper's settings and a budget to scale it by.

A stage takes a checkpoint and prepared data and leaves a folder: `run/` has its checkpoints, tables
and plots, `model/` the model that it made.
"""
