"""Consistency filter: a pair stays if its positive is among the nearest texts of a random pool.

A pair (query, positive) stays if at most `keep` - 1 texts of the pool are closer to the query than
its positive, known positives and the query itself left out. E5 (arXiv 2212.03533) kept the first 2
of a pool of a million; GTE did not filter.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opengte.atomic_files import atomic_write
from opengte.data.examples import text_hash
from opengte.errors import InputError
from opengte.types import Floats

BLOCK = 4096  # texts of the pool that are compared or embedded at once

EmbedQueries = Callable[[Sequence[str], str | None], Floats]  # texts, instruction -> (n, d)
EmbedDocuments = Callable[[Sequence[str]], Floats]


@dataclass(frozen=True)
class ConsistencyFilter:
    """Ranks to keep, size of the pool, and the functions that embed (vectors of length one).

    model identifies what embeds: another model makes another data set. Raises InputError unless 1
    <= keep < pool.
    """

    queries: EmbedQueries
    documents: EmbedDocuments
    model: str  # identifies the model that embeds
    keep: int = 2
    pool: int = 1_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that the filter can drop something."""
        if not 1 <= self.keep < self.pool:
            raise InputError(
                f"keep={self.keep} with a pool of {self.pool} texts; expected 1 <= keep < pool"
            )


@dataclass(frozen=True, eq=False)
class RandomPool:
    """Random texts: their hashes, and their vectors (m, d) float32."""

    hashes: list[bytes]
    vectors: Floats


def sample_texts(texts: Iterable[str], size: int, seed: int) -> list[str]:
    """Return `size` distinct texts, those with the smallest keyed hashes, in any input order."""
    key = seed.to_bytes(8, "little", signed=True)
    largest: list[tuple[int, bytes, str]] = []  # a heap, by the negated keyed hash
    inside: set[bytes] = set()
    for text in texts:
        own = text_hash(text)
        drawn = hashlib.blake2b(own, key=key, digest_size=16).digest()
        item = (-int.from_bytes(drawn, "big"), own, text)
        if own in inside or (len(largest) == size and item[0] <= largest[0][0]):
            continue
        inside.add(own)
        if len(largest) < size:
            heapq.heappush(largest, item)
        else:
            inside.remove(heapq.heappushpop(largest, item)[1])
    return [text for _, _, text in sorted(largest, reverse=True)]


def embed_pool(texts: list[str], embed: EmbedDocuments, path: Path) -> RandomPool:
    """Return the texts as a pool; its vectors are stored in a file, and reused if it exists."""
    hashes = [text_hash(text) for text in texts]
    if not path.exists():
        with atomic_write(path) as part:
            vectors = None
            for start in range(0, len(texts), BLOCK):
                block = embed(texts[start : start + BLOCK])
                if vectors is None:
                    shape = (len(texts), block.shape[1])
                    vectors = np.lib.format.open_memmap(part, "w+", np.float32, shape)
                vectors[start : start + len(block)] = block
            assert vectors is not None
            vectors.flush()
    return RandomPool(hashes, np.load(path, mmap_mode="r"))


def positive_ranks(
    queries: Floats, positives: Floats, known: Sequence[frozenset[bytes]], pool: RandomPool
) -> npt.NDArray[np.int64]:
    """Return the rank of each query's positive among the pool and itself, (n,) int64, 1 the best.

    queries and positives (n, d) float32; known[i] are hashes of texts that do not count against
    query i.
    """
    own = np.einsum("nd,nd->n", queries, positives)[:, None]
    places: dict[bytes, int] = {one: place for place, one in enumerate(pool.hashes)}
    mine = [(i, places[one]) for i, ones in enumerate(known) for one in ones if one in places]
    skipped = np.array(mine, dtype=np.int64).reshape(-1, 2)
    result = np.ones(len(queries), dtype=np.int64)
    for start in range(0, len(pool.hashes), BLOCK):
        scores = queries @ pool.vectors[start : start + BLOCK].T
        here = skipped[(skipped[:, 1] >= start) & (skipped[:, 1] < start + BLOCK)]
        scores[here[:, 0], here[:, 1] - start] = -np.inf
        result += (scores > own).sum(axis=1)
    return result
