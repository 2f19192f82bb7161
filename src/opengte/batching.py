"""Lengths -> batches: sorted by length, cut by a token budget. Pure functions."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]

WINDOW_TEXTS = 4096
WINDOW_CHARACTERS = 16 << 20


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


def split_windows(
    texts: Iterable[str], at_most: int = WINDOW_TEXTS, characters: int = WINDOW_CHARACTERS
) -> Iterator[list[str]]:
    """Cut a stream of texts into lists, bounded in texts and in characters."""
    window: list[str] = []
    held = 0
    for text in texts:
        length = len(text) if isinstance(text, str) else 0
        if window and (len(window) >= at_most or held + length > characters):
            yield window
            window, held = [], 0
        window.append(text)
        held += length
    if window:
        yield window
