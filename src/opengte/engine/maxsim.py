"""MaxSim, the score of late interaction, on token vectors as they are stored.

The score of a document is the sum over the query's token vectors of the highest product with one of
the document's (arXiv 2004.12832).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from opengte.engine.native_extension import available, choose_isa, load_extension
from opengte.errors import InputError
from opengte.types import Floats

Stored = Literal["fp32", "bf16", "int8"]
DTYPES: dict[Stored, Any] = {"fp32": np.float32, "bf16": np.uint16, "int8": np.int8}
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TokenVectors:
    """The token vectors of n documents end to end.

    Attributes:
        values: Vectors (t, d): float32, bfloat16 as its bits in uint16, or int8.
        starts: Where each document begins, and the end, (n + 1,) int64.
        scales: For int8, what a vector's values are multiplied by, (t,) float32.

    >>> stored = TokenVectors.of([np.eye(2, dtype=np.float32)], "int8")
    >>> stored.values.tolist(), stored.starts.tolist()
    ([[127, 0], [0, 127]], [0, 2])
    """

    values: npt.NDArray[Any]
    starts: npt.NDArray[np.int64]
    scales: Floats | None = None

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.starts) - 1

    @property
    def stored(self) -> Stored:
        """Return how values are stored: `fp32`, `bf16` or `int8`."""
        kinds: dict[Any, Stored] = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
        return kinds[self.values.dtype]

    @classmethod
    def of(cls, documents: Sequence[Floats], stored: Stored = "fp32") -> "TokenVectors":
        """Store the token vectors (t, d) of documents; InputError if one has none."""
        starts = np.zeros(len(documents) + 1, np.int64)
        np.cumsum([len(one) for one in documents], out=starts[1:])
        if (np.diff(starts) < 1).any():
            empty = int(np.argmax(np.diff(starts) < 1))
            raise InputError(f"documents[{empty}] has no token vectors, expected at least one")
        rows = np.concatenate(documents) if documents else np.zeros((0, 1), np.float32)
        values, scales = _stored(np.ascontiguousarray(rows, np.float32), stored)
        return cls(values, starts, scales)

    def floats(self) -> Floats:
        """Return the vectors (t, d) in float32."""
        if self.scales is not None:
            result: Floats = self.values * self.scales[:, None]
            return result
        if self.values.dtype == np.uint16:
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(self.values, np.float32)


def quantised(vectors: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Return vectors (t, d) as int8, and the scale of each, (t,): its largest value / 127."""
    largest = np.abs(vectors).max(axis=1, initial=0.0)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    values = np.rint(vectors / scales[:, None]).astype(np.int8)
    return values, scales


def _stored(vectors: Floats, stored: Stored) -> tuple[npt.NDArray[Any], Floats | None]:
    if stored == "fp32":
        return vectors, None
    if stored == "int8":
        return quantised(vectors)
    bits = vectors.view(np.uint32)  # to nearest, ties to even
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16), None


def maxsim(
    query: Floats, documents: TokenVectors, *, mean: bool = False, isa: str | None = None
) -> Floats:
    """Return the MaxSim of a query's token vectors (q, d) with each document, (n,) float32.

    The query is stored as the documents are. mean divides by q. isa names the instruction set of
    the compiled kernel; where that is not installed, NumPy computes. InputError for vectors of
    another width, or a query without any.

    >>> documents = TokenVectors.of([np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[:1]])
    >>> maxsim(np.eye(2, dtype=np.float32), documents).tolist()
    [2.0, 1.0]
    """
    if query.ndim != 2 or not len(query) or query.shape[1] != documents.values.shape[1]:
        raise InputError(
            f"the query has vectors of shape {query.shape}, expected (at least 1, "
            f"{documents.values.shape[1]}), the width of the documents' vectors"
        )
    rows = np.ascontiguousarray(query, np.float32)
    own = TokenVectors(*_with_start(rows, documents.stored))
    compute = _native if _has_native() else _numpy
    scores = compute(own, documents, isa)
    return (scores / len(query) if mean else scores).astype(np.float32)


def _with_start(rows: Floats, stored: Stored) -> tuple[Any, Any, Any]:
    values, scales = _stored(rows, stored)
    return values, np.array([0, len(rows)]), scales


@cache
def _has_native() -> bool:
    return available()


def _native(query: TokenVectors, documents: TokenVectors, isa: str | None) -> Doubles:
    scores = np.empty(len(documents), np.float64)
    load_extension().maxsim(
        isa=isa or choose_isa(),
        precision=documents.stored,
        query=query.values,
        query_scales=query.scales,
        tokens=documents.values,
        scales=documents.scales,
        starts=documents.starts,
        scores=scores,
    )
    return scores


def _numpy(query: TokenVectors, documents: TokenVectors, isa: str | None) -> Doubles:
    """Compute the same in NumPy, a document at a time."""
    rows, scores = query.floats(), np.empty(len(documents), np.float64)
    vectors = documents.floats()
    for i, (first, last) in enumerate(zip(documents.starts, documents.starts[1:], strict=False)):
        scores[i] = (rows @ vectors[first:last].T).max(axis=1).sum(dtype=np.float64)
    return scores
