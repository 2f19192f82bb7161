"""The interface of objectives, and helpers that they share."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from opengte.data import TrainingBatch
from opengte.errors import InputError
from opengte.train.gradient_cache import GradientCache
from opengte.types import PackedBatch

DistillationLoss = Literal["kl", "margin_mse"]


@dataclass(frozen=True, eq=False)
class LossShare:
    """One process's part of a step: its share of the loss, and what it computed."""

    loss: Tensor
    texts: int
    tokens: int
    square_tokens: int  # sum over texts of tokens squared, for the cost of attention


class Objective(Protocol):
    """Turns a batch into gradients.

    Its repr is part of the identity that a resumed run must match.
    """

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the outputs of the trainable model that the objective needs."""

    def step(self, passes: GradientCache, batch: TrainingBatch, seed: tuple[int, ...]) -> LossShare:
        """Add the gradients of this process's share of the global loss; return the share."""


def loss_share(loss: Tensor, texts: PackedBatch) -> LossShare:
    """Return the record of a step: the share of the loss, and counts of the texts it computed."""
    lengths = texts.lengths.astype(np.int64)
    return LossShare(loss, len(texts), len(texts.ids), int((lengths * lengths).sum()))


def check_one_positive(batch: TrainingBatch) -> None:
    """Raise InputError unless each row has exactly one positive."""
    if len(batch.positive) != len(batch) or len(batch.query) != len(batch):
        raise InputError(
            f"a batch of source {batch.source.name!r} has {len(batch)} rows with "
            f"{len(batch.query)} queries and {len(batch.positive)} positives, expected one each: "
            "draw one with BatchLoader(..., positives=1); texts without pairs are for MaskedTokens"
        )


def teacher_scores(batch: TrainingBatch, device: torch.device) -> Tensor | None:
    """Return the teacher's scores of this process's positives and negatives, (n + m,) float32.

    None unless every one of them has a score.
    """
    positive, negative = batch.positive.scores, batch.negative.scores
    if positive is None or (negative is None and len(batch.negative)):
        return None
    scores = np.concatenate([positive, negative if negative is not None else positive[:0]])
    return None if np.isnan(scores).any() else torch.from_numpy(scores).to(device)
