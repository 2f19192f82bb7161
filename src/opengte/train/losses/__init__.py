"""Losses as pure functions, computed in tiles, exact on any number of processes.

A loss returns this process's share. Summed over processes, the shares are the loss of the global
batch and their gradients its gradient, however the batch is divided.
"""

from opengte.train.losses.contrastive import (
    CandidateScores,
    improved_contrastive,
    info_nce,
    mask_false_negatives,
    own_negatives_loss,
    score_candidates,
)
from opengte.train.losses.items import COSINE, LATE, SPARSE, Similarity, TextVectors
from opengte.train.losses.masked import masked_cross_entropy
from opengte.train.losses.matryoshka import matryoshka
from opengte.train.losses.pairs import GlobalBatch, TextKeys, number_texts
from opengte.train.losses.scored import cosent, distil_kl, margin_mse, pointwise
from opengte.train.losses.weights import flops_regulariser, log_saturated

__all__ = [
    "COSINE",
    "LATE",
    "SPARSE",
    "CandidateScores",
    "TextVectors",
    "TextKeys",
    "GlobalBatch",
    "Similarity",
    "cosent",
    "distil_kl",
    "flops_regulariser",
    "improved_contrastive",
    "info_nce",
    "margin_mse",
    "masked_cross_entropy",
    "matryoshka",
    "number_texts",
    "score_candidates",
    "own_negatives_loss",
    "pointwise",
    "log_saturated",
    "mask_false_negatives",
]
