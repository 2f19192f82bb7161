"""What the peers without a pipeline of their own share: tokens, batches sorted by length, padding.

It is as lean as a careful user would write it, so that a peer is not slowed by what surrounds it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

LARGEST = 32  # texts of a batch
BATCHES = 30  # of a set: cut into fewer, lengths differ within a batch and padding costs more

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Forward = Callable[[Ids, Ids], Floats]


class Padded:
    """Encodes texts with a function from padded ids and mask, (n, length) each, to vectors."""

    def __init__(self, folder: Path, max_length: int, forward: Forward) -> None:
        self._tokenizer = tokenizer(folder, max_length)
        self._forward = forward

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return the vectors of texts, in their order."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        parts = []
        size = batch_size(len(order))
        for start in range(0, len(order), size):
            parts.append(self._forward(*pad([ids[i] for i in order[start : start + size]])))
        result = np.concatenate(parts)
        result[order] = result.copy()
        return result


def batch_size(texts: int) -> int:
    """Return how many texts a batch has, so that a small set is padded as little as a large one."""
    return min(LARGEST, max(2, texts // BATCHES))


def tokenizer(folder: Path, max_length: int) -> Tokenizer:
    """Return a folder's tokenizer, cutting at max_length and not padding."""
    loaded = Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded.no_padding()
    loaded.enable_truncation(max_length)
    return loaded


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Return ids and mask, (n, longest) int64, padded at the right with zeros."""
    longest = max(map(len, sequences))
    ids = np.zeros((len(sequences), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
