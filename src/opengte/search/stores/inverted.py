"""First-stage search by learned sparse weights: postings by token, exact, in memory.

Letters in shapes: p postings, v tokens, n rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opengte.search.stores.base import Scored, Sparse
from opengte.types import Floats

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Inverted:
    """Rows (p,) and weights (p,) of postings, those of token t at starts[t]:starts[t + 1]."""

    ids: Sequence[str]  # document of each row
    starts: Numbers
    rows: Numbers
    weights: Floats

    @classmethod
    def build(cls, ids: Sequence[str], rows: Sequence[Sparse]) -> "Inverted":
        """Build postings of rows of {token id: weight}."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        tokens = np.fromiter((t for row in rows for t in row), np.int64, int(lengths.sum()))
        weights = np.fromiter(
            (w for row in rows for w in row.values()), np.float32, int(lengths.sum())
        )
        order = np.argsort(tokens, kind="stable")
        counts = np.bincount(tokens, minlength=1) if len(tokens) else np.zeros(1, np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(ids, starts, np.repeat(np.arange(len(rows)), lengths)[order], weights[order])

    def search(self, query: Sparse, k: int, allowed: frozenset[str] | None = None) -> Scored:
        """Return the k documents with the largest dot product, each by its best row."""
        scores = np.zeros(len(self.ids), dtype=np.float32)
        for token, weight in query.items():
            if token + 1 < len(self.starts):
                span = slice(self.starts[token], self.starts[token + 1])
                scores[self.rows[span]] += np.float32(weight) * self.weights[span]
        best: dict[str, float] = {}
        for row in np.argsort(-scores, kind="stable").tolist():
            if scores[row] <= 0 or len(best) == k:
                break
            name = self.ids[row]
            if name not in best and (allowed is None or name in allowed):
                best[name] = float(scores[row])
        return list(best.items())
