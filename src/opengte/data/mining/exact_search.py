"""Exact nearest-neighbour search, block by block, in bounded memory.

Returns what `search.adhoc.exact.top_k` returns, faster for many queries: after the first block a
score counts only if it beats the lowest one so far, which few do. Letters in shapes: q queries, m
rows of a block, d width, k results.
"""

from collections.abc import Iterable

import numpy as np

from opengte.data.arrays import Longs
from opengte.types import Floats


def nearest_rows(queries: Floats, blocks: Iterable[Floats], k: int) -> tuple[Floats, Longs]:
    """Return the k highest dot products of each query and their rows, (q, up to k), best first.

    Equal scores are in the order of rows. queries (q, d) and blocks of (m, d) are float32.

    >>> scores, rows = nearest_rows(np.eye(2, dtype=np.float32), [np.eye(2, dtype=np.float32)], 1)
    >>> rows
    array([[0],
           [1]])
    """
    scores = np.empty((len(queries), 0), dtype=np.float32)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    start = 0
    for block in blocks:
        block_scores = queries @ np.asarray(block).T
        scores, rows = _merged(scores, rows, block_scores, start, k)
        start += len(block)
    return scores, rows


def _merged(scores: Floats, rows: Longs, found: Floats, start: int, k: int) -> tuple[Floats, Longs]:
    """Return the best of what was best and a block (q, m) of rows from `start` on."""
    count, kept = scores.shape
    if kept < k:
        here = np.broadcast_to(np.arange(start, start + found.shape[1]), found.shape)
        every = np.concatenate([scores, found], axis=1)
        return _best(every, np.concatenate([rows, here], axis=1), k)
    # a later row of equal score stands behind, so only a higher score changes anything
    query, place = np.nonzero(found > scores[:, -1:])
    new = np.bincount(query, minlength=count)
    if not new.any():
        return scores, rows
    width = int(new.max())
    more = np.full((count, width), -np.inf, dtype=np.float32)
    more_rows = np.full((count, width), np.iinfo(np.int64).max)
    column = np.arange(len(query)) - np.repeat(np.cumsum(new) - new, new)
    more[query, column] = found[query, place]
    more_rows[query, column] = start + place
    every = np.concatenate([scores, more], axis=1)
    return _best(every, np.concatenate([rows, more_rows], axis=1), k)


def _best(scores: Floats, rows: Longs, k: int) -> tuple[Floats, Longs]:
    """Return the k best columns of each row; columns are in the order of row numbers."""
    if scores.shape[1] > 4 * k:
        # all that reach the k-th score, in their order: ties are cut below
        worst = np.partition(scores, -k, axis=1)[:, -k]
        query, place = np.nonzero(scores >= worst[:, None])
        counts = np.bincount(query, minlength=len(scores))
        column = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        smaller = np.full((len(scores), int(counts.max(initial=0))), -np.inf, dtype=np.float32)
        smaller_rows = np.full(smaller.shape, np.iinfo(np.int64).max)
        smaller[query, column], smaller_rows[query, column] = (
            scores[query, place],
            rows[query, place],
        )
        scores, rows = smaller, smaller_rows
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
