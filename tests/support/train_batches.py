"""Global batches of random tokens, cut into the rows of each process."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from opengte.data import BatchTexts, DatasetSource, TrainingBatch
from opengte.types import PackedBatch

VOCABULARY = 50


def source(**changes: Any) -> DatasetSource:
    fields: dict[str, Any] = {
        "name": "toy",
        "kind": "pairs",
        "in_batch_negatives": True,
        "temperature": None,
        "origin": lambda row: ("toy.jsonl", row + 1),
    }
    return cast(DatasetSource, SimpleNamespace(**(fields | changes)))


def packed(lengths: npt.ArrayLike, generator: np.random.Generator) -> PackedBatch:
    sizes = np.asarray(lengths, dtype=np.int32)
    cu_seqlens = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=cu_seqlens[1:])
    ids = generator.integers(3, VOCABULARY, int(cu_seqlens[-1])).astype(np.int32)
    types = np.zeros_like(ids)
    return PackedBatch(ids, cu_seqlens, types, np.zeros(len(sizes), np.int32))


def random_batch(
    rows: int, seed: int, *, words: int = 10**6, scored: bool = False
) -> TrainingBatch:
    """A global batch; of few words, many texts share a hash."""
    generator = np.random.default_rng(seed)
    negatives = generator.integers(0, 4, rows).astype(np.int32)
    known = generator.integers(0, 3, rows).astype(np.int32)

    def column(counts: npt.NDArray[np.int32]) -> BatchTexts:
        total = int(counts.sum())
        hashes = generator.integers(words, size=(total, 2))
        hashes[:, 1] = 7
        scores = generator.random(total).astype(np.float32) if scored else None
        lengths = generator.integers(1, 12, total)
        return BatchTexts(packed(lengths, generator), counts, hashes, scores)

    one = np.ones(rows, np.int32)
    hashes = generator.integers(words, size=(int(known.sum()), 2))
    return TrainingBatch(
        step=3,
        source=source(),
        total=rows,
        first=0,
        rows=np.arange(rows) + 100 * seed,
        query=column(one),
        positive=column(one),
        negative=column(negatives),
        known_hashes=hashes,
        known_counts=known,
    )


def part(batch: TrainingBatch, start: int, stop: int) -> TrainingBatch:
    """The rows of one process."""

    def cut(column: BatchTexts) -> BatchTexts:
        bounds = np.concatenate([[0], np.cumsum(column.counts)])
        places = np.arange(bounds[start], bounds[stop])
        scores = None if column.scores is None else column.scores[places]
        return BatchTexts(
            column.texts.select(places), column.counts[start:stop], column.hashes[places], scores
        )

    bounds = np.concatenate([[0], np.cumsum(batch.known_counts)])
    return replace(
        batch,
        first=start,
        rows=batch.rows[start:stop],
        query=cut(batch.query),
        positive=cut(batch.positive),
        negative=cut(batch.negative),
        known_hashes=batch.known_hashes[bounds[start] : bounds[stop]],
        known_counts=batch.known_counts[start:stop],
    )


def bounds(rows: int, size: int, spread: str) -> list[int]:
    """Where each process's rows start, and the end: even, one row each and the rest, or all."""
    if spread == "even":
        return [r * rows // size for r in range(size + 1)]
    each = 1 if spread == "uneven" else 0
    return [*(each * r for r in range(size)), rows]
