"""From one process's outputs and texts to the global batch that the losses see."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from opengte.data import TrainingBatch
from opengte.train import losses
from opengte.train.distributed import World
from opengte.train.losses import GlobalBatch, TextKeys, TextVectors
from opengte.train.losses.items import offsets_from_lengths
from opengte.train.objectives.base import teacher_scores
from opengte.types import PackedBatch


def offsets_of(texts: PackedBatch, device: torch.device) -> Tensor:
    """Return the offset of each text's first token, and the end, (n + 1,) int64."""
    return torch.from_numpy(texts.cu_seqlens.astype(np.int64)).to(device)


def dense_spans(vectors: Tensor) -> Callable[[slice], TextVectors]:
    """Return a function that gives the dense vectors of a span of texts."""
    return lambda span: TextVectors(vectors[span])


def token_spans(
    texts: PackedBatch, vectors: Tensor, *, first: bool = False
) -> Callable[[slice], TextVectors]:
    """Return a function that gives the token vectors of a span of texts.

    The first token of each text is left out unless first: it stands for the whole text.
    """
    offsets = offsets_of(texts, vectors.device)
    if first:
        return TextVectors(vectors, offsets).__getitem__
    kept = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
    kept[offsets[:-1]] = False
    whole = TextVectors(vectors[kept], offsets_from_lengths(offsets.diff() - 1))
    return whole.__getitem__


def gather_global_batch(
    batch: TrainingBatch,
    items: Callable[[slice], TextVectors],
    world: World,
    masks: bool,
    similarity: losses.Similarity = losses.COSINE,
) -> GlobalBatch:
    """Return the global batch, gathered from all processes.

    items gives the vectors of a span of this process's texts: queries, then positives, negatives.
    """
    n, m = len(batch), len(batch.negative)
    owners = np.repeat(np.arange(batch.first, batch.first + n), batch.negative.counts)
    negatives = world.counts(m)
    first = sum(negatives[: world.rank])
    teacher = teacher_scores(batch, world.device)
    return GlobalBatch(
        queries=_gather_items(items(slice(0, n)), world),
        positives=_gather_items(items(slice(n, 2 * n)), world),
        negatives=_gather_items(items(slice(2 * n, 2 * n + m)), world),
        owners=world.gather(torch.from_numpy(owners).to(world.device)),
        rows=slice(batch.first, batch.first + n),
        own=slice(first, first + m),
        keys=_keys(batch, world) if masks else None,
        teacher=teacher,
        similarity=similarity,
    )


def with_vectors(
    pairs: GlobalBatch,
    batch: TrainingBatch,
    items: Callable[[slice], TextVectors],
    world: World,
    similarity: losses.Similarity,
) -> GlobalBatch:
    """Return the same global batch with another kind of vectors."""
    n, m = len(batch), len(batch.negative)
    return replace(
        pairs,
        queries=_gather_items(items(slice(0, n)), world),
        positives=_gather_items(items(slice(n, 2 * n)), world),
        negatives=_gather_items(items(slice(2 * n, 2 * n + m)), world),
        similarity=similarity,
    )


def _gather_items(items: TextVectors, world: World) -> TextVectors:
    values = world.gather(items.values)
    if items.offsets is None:
        return TextVectors(values)
    ids = None if items.ids is None else world.gather(items.ids)
    return TextVectors(values, offsets_from_lengths(world.gather(items.lengths)), ids)


def flops_terms(pairs: GlobalBatch) -> list[Tensor]:
    """Return the FLOPS regularisers of queries and of positives."""
    return [
        losses.flops_regulariser(pairs.queries, pairs.rows),
        losses.flops_regulariser(pairs.positives, pairs.rows),
    ]


def _keys(batch: TrainingBatch, world: World) -> TextKeys:
    """Return numbers of the texts of the global batch; known positives are padded with queries."""
    hashes = [batch.query.hashes, batch.positive.hashes, batch.negative.hashes]
    gathered = [world.gather(torch.from_numpy(h).to(world.device)) for h in hashes]
    most = max(world.counts(int(batch.known_counts.max(initial=0))))
    known = world.gather(torch.from_numpy(_padded(batch, most)).to(world.device))
    numbers = losses.number_texts(torch.cat([*gathered, known.flatten(0, 1)]))
    sizes = [len(part) for part in gathered] + [known.shape[0] * known.shape[1]]
    q, p, n, k = torch.split(numbers, sizes)
    return TextKeys(q, p, n, k.view(known.shape[:2]))


def _padded(batch: TrainingBatch, most: int) -> npt.NDArray[np.int64]:
    counts = batch.known_counts.astype(np.int64)
    table = np.repeat(batch.query.hashes[:, None], most, axis=1)
    rows = np.repeat(np.arange(len(counts)), counts)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    table[rows, columns] = batch.known_hashes
    return np.ascontiguousarray(table)
