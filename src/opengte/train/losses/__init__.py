"""Losses: pure functions of vectors, scores and texts' keys, tiled and exact across processes.

Every loss returns the share of this process: the sum over processes is the loss of the global
batch, and the sum of gradients its gradient, however the batch is divided.
"""

from opengte.train.losses.contrastive import (
    Groups,
    improved_contrastive,
    info_nce,
    own_groups,
    own_negatives,
    without_known,
)
from opengte.train.losses.items import COSINE, LATE, SPARSE, Items, Similarity
from opengte.train.losses.masked import masked_cross_entropy
from opengte.train.losses.matryoshka import matryoshka
from opengte.train.losses.pairs import Keys, Pairs, number_texts
from opengte.train.losses.scored import cosent, distil_kl, margin_mse, pointwise
from opengte.train.losses.weights import flops, saturated

__all__ = [
    "COSINE",
    "LATE",
    "SPARSE",
    "Groups",
    "Items",
    "Keys",
    "Pairs",
    "Similarity",
    "cosent",
    "distil_kl",
    "flops",
    "improved_contrastive",
    "info_nce",
    "margin_mse",
    "masked_cross_entropy",
    "matryoshka",
    "number_texts",
    "own_groups",
    "own_negatives",
    "pointwise",
    "saturated",
    "without_known",
]
