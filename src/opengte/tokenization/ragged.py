"""Sequences of unequal length in flat arrays: truncating them, packing them into a batch.

Letters in shapes: n sequences, t tokens of all sequences together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opengte.tokenization.template import Template
from opengte.types import Ints, PackedBatch

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ragged:
    """Token ids of n texts end to end, (t,) int32, and the length of each, (n,) int64."""

    ids: Ints
    lengths: Offsets


def truncate(texts: Ragged, lengths: Offsets, heads: Offsets | None = None) -> Ragged:
    """Return each text truncated to at most its entry in lengths (n,).

    Without heads, tokens at the end are dropped. With heads (n,), this many leading tokens are kept
    and the tokens after them are dropped.
    """
    lengths = np.minimum(texts.lengths, lengths)
    dropped = texts.lengths - lengths
    if not dropped.any():
        return texts
    within = _positions(lengths)
    source = np.repeat(_starts(texts.lengths), lengths) + within
    if heads is not None:
        source += np.where(within >= np.repeat(heads, lengths), np.repeat(dropped, lengths), 0)
    return Ragged(texts.ids[source], lengths)


def without_id(texts: Ragged, token: int) -> Ragged:
    """Return each text without one token."""
    kept = texts.ids != token
    if kept.all():
        return texts
    before = np.concatenate(([0], np.cumsum(kept)))
    starts = _starts(texts.lengths)
    return Ragged(texts.ids[kept], before[starts + texts.lengths] - before[starts])


def pack_sequences(template: Template, parts: Sequence[Ragged], pool_from: Offsets) -> PackedBatch:
    """Join the k texts of each of n sequences with the special tokens of the template."""
    lengths = np.full(len(pool_from), template.size)
    for part in parts:
        lengths += part.lengths
    cu_seqlens = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    ids = np.empty(cu_seqlens[-1], dtype=np.int32)
    type_ids = np.zeros_like(ids)
    place = cu_seqlens[:-1].astype(np.int64)  # where the next segment of each sequence starts
    for index, segment in enumerate(template.specials):
        for token, type_id in segment:
            ids[place], type_ids[place] = token, type_id
            place = place + 1
        if index < len(parts):
            part, type_id = parts[index], template.types[index]
            target = np.repeat(place, part.lengths) + _positions(part.lengths)
            ids[target], type_ids[target] = part.ids, type_id
            place = place + part.lengths
    last = np.maximum(lengths - 1, 0)
    return PackedBatch(ids, cu_seqlens, type_ids, np.minimum(pool_from, last).astype(np.int32))


def fill_empty(texts: Ragged, empty: Offsets, token: int) -> Ragged:
    """Put one token into each of the empty texts, given by index."""
    ids = np.insert(texts.ids, _starts(texts.lengths)[empty], token)
    lengths = texts.lengths.copy()
    lengths[empty] = 1
    return Ragged(ids, lengths)


def prepend(texts: Ragged, indices: Sequence[int], heads: Ragged) -> Ragged:
    """Put the ids of heads in front of the texts with these indices."""
    rows = np.split(texts.ids, np.cumsum(texts.lengths)[:-1])
    fronts = np.split(heads.ids, np.cumsum(heads.lengths)[:-1])
    for index, front in zip(indices, fronts, strict=True):
        rows[index] = np.concatenate([front, rows[index]])
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return Ragged(np.concatenate(rows), lengths)


def _starts(lengths: Offsets) -> Offsets:
    """Return the start of each sequence, (n,)."""
    return np.cumsum(lengths) - lengths


def _positions(lengths: Offsets) -> Offsets:
    """Return the position of every token in its sequence, (t,)."""
    return np.arange(lengths.sum()) - np.repeat(_starts(lengths), lengths)
