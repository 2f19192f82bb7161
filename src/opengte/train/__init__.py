"""Training of any supported architecture: the same result on any number of processes.

`train` is the loop; `objectives` turn a batch into a loss from `losses`, `gradient_cache` bounds
memory, `saving` writes checkpoints and finished models, `stages` are complete recipes.
"""

from opengte.train.distributed import World, join_processes, leave_processes
from opengte.train.loop import TrainingResult, train
from opengte.train.models.loading import load_trainable
from opengte.train.models.trainable import TrainableModel
from opengte.train.objectives import Contrastive, MaskedTokens, Ranking
from opengte.train.saving.export import ExportPackage, export_model
from opengte.train.saving.model_card import TrainedModelCard
from opengte.train.settings import TrainingSettings

__all__ = [
    "Contrastive",
    "ExportPackage",
    "MaskedTokens",
    "Ranking",
    "TrainableModel",
    "TrainedModelCard",
    "TrainingResult",
    "TrainingSettings",
    "World",
    "export_model",
    "join_processes",
    "leave_processes",
    "load_trainable",
    "train",
]
