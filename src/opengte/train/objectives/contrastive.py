"""Embeddings: contrastive, ranking and distillation losses on dense, sparse and token vectors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from opengte.data import TrainingBatch
from opengte.errors import InputError
from opengte.train import losses
from opengte.train.distributed import World
from opengte.train.gradient_cache import GradientCache
from opengte.train.losses import CandidateScores, GlobalBatch, TextVectors
from opengte.train.models.trainable import concatenate_batches
from opengte.train.objectives.base import (
    DistillationLoss,
    LossShare,
    check_one_positive,
    loss_share,
)
from opengte.train.objectives.gathering import (
    dense_spans,
    flops_terms,
    gather_global_batch,
    offsets_of,
    token_spans,
    with_vectors,
)
from opengte.types import PackedBatch


@dataclass(frozen=True)
class Contrastive:
    """Embeddings from pairs, hard negatives, labels, gold scores and a teacher's scores.

    The source decides the loss: scored pairs get CoSENT; sources without in-batch negatives get a
    softmax over each row's own candidates; all others get the contrastive loss. A source's own
    temperature takes precedence. Token vectors are scored from queries to documents only, so they
    always use info_nce.

    dimensions maps Matryoshka sizes to weights (empty: full vectors only). sparse, tokens and
    distil are weights of further losses (0: off); sources without a teacher's scores are not
    distilled.

    >>> Contrastive(loss="info_nce", temperature=0.05, dimensions={384: 1.0, 128: 1.0}).outputs
    ('dense',)
    >>> Contrastive(sparse=0.1).outputs
    ('dense', 'sparse')
    """

    loss: Literal["improved", "info_nce"] = "improved"
    temperature: float = 0.01
    masks: bool = True  # texts known to be no negatives do not count
    margin: float | None = None  # nor do those that score above the positive by more
    dimensions: Mapping[int, float] = field(default_factory=dict)
    sparse: float = 0.0
    sparse_temperature: float = 0.01
    saturate: bool = False  # log(1 + weight), as SPLADE
    flops: float = 0.0  # weight of the FLOPS regulariser
    tokens: float = 0.0
    tokens_temperature: float = 0.02
    distil: float = 0.0
    distil_by: DistillationLoss = "kl"
    teacher_temperature: float = 1.0
    cosent_scale: float = 20.0
    special: tuple[int, ...] = ()  # token ids without a sparse weight

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the outputs of the trainable model that the objective needs."""
        optional = (("sparse", self.sparse), ("tokens", self.tokens))
        return ("dense", *(name for name, weight in optional if weight))

    def step(self, passes: GradientCache, batch: TrainingBatch, seed: tuple[int, ...]) -> LossShare:
        """Add the gradients of this process's share of the loss of the global batch."""
        check_one_positive(batch)
        texts = concatenate_batches([batch.query.texts, batch.positive.texts, batch.negative.texts])
        loss = passes.backward(texts, partial(self.share, batch, texts, passes.world), seed)
        return loss_share(loss, texts)

    def share(
        self, batch: TrainingBatch, texts: PackedBatch, world: World, outputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Return this process's share of the loss, given the outputs of its own texts."""
        pairs = gather_global_batch(batch, dense_spans(outputs["dense"]), world, self.masks)
        parts = [self._dense(batch, pairs, world)]
        if self.sparse:
            weights = self._weights(texts, outputs["sparse"])
            sparse = with_vectors(pairs, batch, weights, world, losses.SPARSE)
            parts.append(self.sparse * self._main(batch, sparse, world, self.sparse_temperature))
            if self.flops:
                parts += [self.flops * part for part in flops_terms(sparse)]
        if self.tokens:
            vectors = token_spans(texts, outputs["tokens"])
            late = with_vectors(pairs, batch, vectors, world, losses.LATE)
            parts.append(self.tokens * self._main(batch, late, world, self.tokens_temperature))
        return torch.stack(parts).sum()

    def _dense(self, batch: TrainingBatch, pairs: GlobalBatch, world: World) -> Tensor:
        temperature = batch.source.temperature or self.temperature

        def loss(some: GlobalBatch) -> Tensor:
            return self._main(batch, some, world, temperature)

        if self.dimensions:
            return losses.matryoshka(loss, pairs, self.dimensions)
        return loss(pairs)

    def _main(
        self, batch: TrainingBatch, pairs: GlobalBatch, world: World, temperature: float
    ) -> Tensor:
        """Return the loss that the source calls for, on one kind of vectors."""
        if batch.source.kind == "scored":
            return self._ranked(batch, pairs, world)
        loss = self._contrast(batch, pairs, temperature)
        if self.distil and pairs.teacher is not None:
            loss = loss + self.distil * self._distilled(pairs, temperature)
        return loss

    def _contrast(self, batch: TrainingBatch, pairs: GlobalBatch, temperature: float) -> Tensor:
        if not batch.source.in_batch_negatives:
            groups = losses.score_candidates(pairs)
            if self.masks:
                groups = losses.mask_false_negatives(groups, pairs)
            return losses.own_negatives_loss(
                groups, len(pairs), temperature=temperature, margin=self.margin
            )
        both_ways = self.loss == "improved" and pairs.similarity.symmetric
        loss = losses.improved_contrastive if both_ways else losses.info_nce
        return loss(pairs, temperature=temperature, margin=self.margin)

    def _distilled(self, pairs: GlobalBatch, temperature: float) -> Tensor:
        assert pairs.teacher is not None
        student = losses.score_candidates(pairs)
        count = pairs.rows.stop - pairs.rows.start
        teacher = CandidateScores(pairs.teacher[:count], pairs.teacher[count:], student.owners)
        if self.distil_by == "margin_mse":
            return losses.margin_mse(student, teacher, len(pairs.owners))
        return losses.distil_kl(
            student,
            teacher,
            len(pairs),
            temperature=temperature,
            teacher_temperature=self.teacher_temperature,
        )

    def _ranked(self, batch: TrainingBatch, pairs: GlobalBatch, world: World) -> Tensor:
        gold = batch.positive.scores
        if gold is None:
            raise InputError(
                f"source {batch.source.name!r} is of kind 'scored' but its rows have no scores: "
                "prepare it again with a column of scores"
            )
        scores = world.gather(pairs.prepared().own_scores()[0])
        labels = world.gather(torch.from_numpy(gold).to(world.device))
        return losses.cosent(scores, labels, scale=self.cosent_scale) / world.size

    def _weights(self, texts: PackedBatch, weights: Tensor) -> Callable[[slice], TextVectors]:
        """Return the sparse weights of a span of texts, special tokens left out."""
        if self.saturate:
            weights = losses.log_saturated(weights)
        ids = torch.from_numpy(texts.ids.astype(np.int64)).to(weights.device)
        kept = torch.isin(ids, torch.tensor(self.special, device=ids.device), invert=True)
        whole = TextVectors(weights * kept, offsets_of(texts, weights.device), ids)
        return whole.__getitem__
