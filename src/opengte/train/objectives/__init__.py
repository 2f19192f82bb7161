"""Objectives: which texts of a batch are encoded, and which losses are computed from them."""

from opengte.train.objectives.base import LossShare, Objective
from opengte.train.objectives.contrastive import Contrastive
from opengte.train.objectives.late import LateContrastive
from opengte.train.objectives.masked import MaskedTokens
from opengte.train.objectives.ranking import Ranking

__all__ = [
    "Contrastive",
    "LateContrastive",
    "LossShare",
    "MaskedTokens",
    "Objective",
    "Ranking",
]
