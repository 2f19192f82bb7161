"""Lengths -> batches: sorted by length, cut by a token budget. Pure functions."""

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]


def cut_batches(lengths: npt.ArrayLike, max_tokens: int) -> list[Indices]:
    """Return batches of indices, longest texts first, each within max_tokens.

    lengths (n,) tokens per text. A text longer than the budget gets a batch of its own. Every index
    occurs once; within a batch and from batch to batch lengths never grow, so that the first batch
    shows the peak of memory.
    """
    counts = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-counts, kind="stable")
    ends = np.cumsum(counts[order])
    batches = []
    first = 0
    while first < len(order):
        before = ends[first - 1] if first else 0
        last = int(np.searchsorted(ends, before + max_tokens, side="right"))
        last = max(last, first + 1)
        batches.append(order[first:last])
        first = last
    return batches
