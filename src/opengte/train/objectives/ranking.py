"""Training of rerankers: query and document in one sequence, one score."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from opengte.data import BatchTexts, TrainingBatch, cross_encoder_sequences
from opengte.tokenization import Tokenizer
from opengte.train import losses
from opengte.train.distributed import World
from opengte.train.gradient_cache import GradientCache
from opengte.train.losses import CandidateScores
from opengte.train.objectives.base import (
    DistillationLoss,
    LossShare,
    check_one_positive,
    loss_share,
    teacher_scores,
)


@dataclass(frozen=True)
class Ranking:
    """A reranker (cross-encoder): query and document in one sequence, one score.

    loss `softmax` is cross-entropy of each positive against its row's negatives, one positive per
    row; `binary` scores each pair alone and allows several positives. With distil, that weight of
    the teacher's scores is added.
    """

    tokenizer: Tokenizer = field(repr=False)
    max_length: int
    loss: Literal["softmax", "binary"] = "softmax"
    temperature: float = 1.0
    distil: float = 0.0
    distil_by: DistillationLoss = "kl"
    teacher_temperature: float = 1.0

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the outputs of the trainable model that the objective needs."""
        return ("score",)

    def step(self, passes: GradientCache, batch: TrainingBatch, seed: tuple[int, ...]) -> LossShare:
        """Add the gradients of this process's share of the loss of the global batch."""
        if self.loss == "softmax":
            check_one_positive(batch)
        texts = cross_encoder_sequences(batch, self.tokenizer, self.max_length)
        loss = passes.backward(texts, partial(self.share, batch, passes.world), seed)
        return loss_share(loss, texts)

    def share(self, batch: TrainingBatch, world: World, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return this process's share of the loss, given the scores of its own pairs."""
        scores, positive = outputs["score"], torch.from_numpy(_is_positive(batch)).to(world.device)
        if self.loss == "binary":
            count = sum(world.counts(len(scores)))
            return losses.pointwise(scores, positive, count)
        owners = torch.from_numpy(_owners(batch.negative)).to(world.device)
        groups = CandidateScores(scores[positive], scores[~positive], owners)
        loss = losses.own_negatives_loss(groups, batch.total, temperature=self.temperature)
        teacher = teacher_scores(batch, world.device) if self.distil else None
        if teacher is None:
            return loss
        theirs = CandidateScores(teacher[: len(batch)], teacher[len(batch) :], owners)
        return loss + self.distil * self._distilled(groups, theirs, batch, world)

    def _distilled(
        self, ours: CandidateScores, theirs: CandidateScores, batch: TrainingBatch, world: World
    ) -> Tensor:
        if self.distil_by == "margin_mse":
            return losses.margin_mse(ours, theirs, sum(world.counts(len(batch.negative))))
        return losses.distil_kl(
            ours,
            theirs,
            batch.total,
            temperature=self.temperature,
            teacher_temperature=self.teacher_temperature,
        )


def _owners(column: BatchTexts) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(len(column.counts), dtype=np.int64), column.counts)


def _is_positive(batch: TrainingBatch) -> npt.NDArray[np.bool_]:
    """Return which of the joined sequences hold a positive: each row's positives come first."""
    counts = np.stack((batch.positive.counts, batch.negative.counts), axis=1).ravel()
    return np.repeat(np.tile([True, False], len(batch)), counts)
