"""Inverted index of learned sparse weights (SPLADE, BGE-M3): exact search, in memory.

Letters in shapes: p postings, v tokens, n rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opengte.search.stores.base import ScoredIds, SparseVector
from opengte.types import Floats

Numbers = npt.NDArray[np.int64]
WIDER = 4  # times as many rows are looked at, where the best rows are of too few documents


@dataclass(frozen=True, eq=False)
class SparseIndex:
    """Rows (p,) and weights (p,) of postings, those of token t at starts[t]:starts[t + 1]."""

    ids: Sequence[str]  # document of each row
    starts: Numbers
    rows: npt.NDArray[np.int32]
    weights: Floats

    @classmethod
    def build(cls, ids: Sequence[str], rows: Sequence[SparseVector]) -> "SparseIndex":
        """Build postings of rows of {token id: weight}."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        count = int(lengths.sum())
        tokens = np.fromiter((t for row in rows for t in row), np.int64, count)
        weights = np.fromiter((w for row in rows for w in row.values()), np.float32, count)
        return cls.of(ids, lengths, tokens, weights)

    @classmethod
    def of(
        cls, ids: Sequence[str], lengths: Numbers, tokens: npt.NDArray[np.integer], weights: Floats
    ) -> "SparseIndex":
        """Build postings of rows that lie one behind the other: tokens (p,) and weights (p,)."""
        order = np.argsort(tokens, kind="stable")
        counts = np.bincount(tokens, minlength=1)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        return cls(ids, starts, rows[order], weights[order])

    def search(
        self, query: SparseVector, k: int, allowed: frozenset[str] | None = None
    ) -> ScoredIds:
        """Return the k documents with the largest dot product, each by its best row."""
        scores = np.zeros(len(self.ids), dtype=np.float32)
        for token, weight in query.items():
            if token + 1 < len(self.starts):
                span = slice(self.starts[token], self.starts[token + 1])
                scores[self.rows[span]] += np.float32(weight) * self.weights[span]
        wanted = WIDER * k
        while True:
            rows = _highest(scores, wanted)
            best: dict[str, float] = {}
            for row in rows.tolist():
                name = self.ids[row]
                if name not in best and (allowed is None or name in allowed):
                    best[name] = float(scores[row])
                    if len(best) == k:
                        return list(best.items())
            if len(rows) < wanted:  # these were all that share a token with the query
                return list(best.items())
            wanted *= WIDER


def _highest(scores: Floats, count: int) -> Numbers:
    """Return the rows with the highest scores above 0, best first, rows of equal score in order."""
    found = np.flatnonzero(scores > 0)
    if len(found) > count:
        least = np.partition(scores[found], len(found) - count)[len(found) - count]
        found = found[scores[found] >= least]
    return found[np.argsort(-scores[found], kind="stable")]
