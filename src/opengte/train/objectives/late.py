"""Late interaction: the contrastive and distillation losses on MaxSim."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from opengte.data import TrainingBatch
from opengte.train import losses
from opengte.train.distributed import World
from opengte.train.objectives.contrastive import Contrastive
from opengte.train.objectives.gathering import gather_global_batch, token_spans
from opengte.types import PackedBatch


@dataclass(frozen=True)
class LateContrastive(Contrastive):
    """A vector for each token, scored by MaxSim: the mean over query tokens of the best match.

    The losses are those of `Contrastive`, with in-batch and hard negatives and a teacher's scores,
    from queries to documents only.

    >>> LateContrastive(temperature=0.02, distil=1.0).outputs
    ('tokens',)
    """

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the outputs of the trainable model that the objective needs."""
        return ("tokens",)

    def share(
        self, batch: TrainingBatch, texts: PackedBatch, world: World, outputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Return this process's share of the loss, given the outputs of its own texts."""
        spans = token_spans(texts, outputs["tokens"], first=True)
        pairs = gather_global_batch(batch, spans, world, self.masks, losses.LATE)
        return self._main(batch, pairs, world, batch.source.temperature or self.temperature)
