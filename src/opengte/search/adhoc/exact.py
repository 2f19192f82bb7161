"""Exact top-k search by dot product, a block of rows at a time, in bounded memory.

Letters in shapes: q queries, m rows of a block, d width, k results.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opengte.types import Floats

RowNumbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TopK:
    """The best rows so far, best first, at most one of each group.

    scores (q, up to k) float32; rows and groups (q, up to k) int64. Rows of equal score are in the
    order of their numbers.
    """

    scores: Floats
    rows: RowNumbers
    groups: RowNumbers


def top_k(queries: Floats, blocks: Iterable[Floats], k: int) -> TopK:
    """Return the k rows with the highest dot product for each query, over all blocks."""
    best, start = empty_top_k(len(queries)), 0
    for block in blocks:
        rows = np.arange(start, start + len(block), dtype=np.int64)
        best = merge_top_k(best, queries, block, rows, rows, k)
        start += len(block)
    return best


def empty_top_k(queries: int) -> TopK:
    """Return the result of having seen no row."""
    none = np.empty((queries, 0), dtype=np.int64)
    return TopK(none.astype(np.float32), none, none)


def merge_top_k(
    best: TopK, queries: Floats, block: Floats, rows: RowNumbers, groups: RowNumbers, k: int
) -> TopK:
    """Return the k best of what was best and a block: its rows (m,) and their groups (m,).

    A group, such as the passages of one document, keeps its best row; it may span blocks.
    """
    count = len(queries)
    scores = np.concatenate([best.scores, queries @ block.T], axis=1)
    all_rows = np.concatenate([best.rows, np.tile(rows, (count, 1))], axis=1)
    all_groups = np.concatenate([best.groups, np.tile(groups, (count, 1))], axis=1)
    chosen = np.array(
        [_best_of_groups(*one, k) for one in zip(scores, all_rows, all_groups, strict=True)],
        dtype=np.intp,
    ).reshape(count, -1)
    return TopK(
        np.take_along_axis(scores, chosen, axis=1),
        np.take_along_axis(all_rows, chosen, axis=1),
        np.take_along_axis(all_groups, chosen, axis=1),
    )


def _best_of_groups(
    scores: Floats, rows: RowNumbers, groups: RowNumbers, k: int
) -> npt.NDArray[np.intp]:
    """Return where the k best rows are, best first, one of each group."""
    order = np.lexsort((rows, -scores))
    _, first = np.unique(groups[order], return_index=True)
    return order[np.sort(first)[:k]]
