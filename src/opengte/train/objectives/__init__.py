"""What a step does with a batch: which texts are encoded, and what loss they are given."""

from opengte.train.objectives.base import LossShare, Objective
from opengte.train.objectives.contrastive import Contrastive
from opengte.train.objectives.masked import MaskedTokens
from opengte.train.objectives.ranking import Ranking

__all__ = ["Contrastive", "MaskedTokens", "Objective", "Ranking", "LossShare"]
