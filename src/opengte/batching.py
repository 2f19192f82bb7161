"""Batching: texts to windows of bounded size, sequence lengths to batches within a token budget."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]

WINDOW_TEXTS = 4096
WINDOW_CHARACTERS = 16 << 20


def cut_batches(lengths: npt.ArrayLike, max_tokens: int) -> list[Indices]:
    """Return batches of indices, longest sequences first, each of at most max_tokens tokens.

    lengths (n,) are tokens of each sequence. A sequence longer than the budget gets a batch of its
    own. Every index occurs once. Lengths never increase, neither within a batch nor from one batch
    to the next, so that the first batch needs the most memory.
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
    """Cut a stream of texts into lists of at most `at_most` texts and `characters` characters.

    A longer text is a list of its own.
    """
    window: list[str] = []
    size = 0
    for text in texts:
        length = len(text) if isinstance(text, str) else 0
        if window and (len(window) >= at_most or size + length > characters):
            yield window
            window, size = [], 0
        window.append(text)
        size += length
    if window:
        yield window
