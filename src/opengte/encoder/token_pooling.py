"""Pooling the token vectors of a document: fewer vectors to store, at little cost to MaxSim.

Vectors are clustered by Ward's method on cosine distances and replaced by the means of their
clusters, as sentence-transformers' HierarchicalTokenPooling and PyLate do.
"""

import numpy as np
import numpy.typing as npt

from opengte.embedding_ops import l2_normalise
from opengte.errors import InputError
from opengte.types import Floats

Merges = list[tuple[float, int, int]]


def pool_tokens(
    vectors: Floats, factor: float, *, protected: int = 1, normalise: bool = True
) -> Floats:
    """Replace similar token vectors (t, d) of one document by their means, float32.

    The first `protected` vectors stay. Of the others about one in `factor` is left, in the order of
    the first token of each cluster. InputError for a factor under 1.

    >>> vectors = np.eye(5, 8, dtype=np.float32)
    >>> pool_tokens(vectors, 2).shape
    (3, 8)
    """
    if not factor >= 1:
        raise InputError(f"the factor of token pooling is {factor!r}, expected at least 1")
    kept, rest = vectors[:protected], vectors[protected:]
    clusters = max(int(len(rest) // factor), 1)
    if clusters < len(rest):
        labels = _labels(_ward(1 - rest @ rest.T), len(rest), clusters)
        sums = np.zeros((labels.max() + 1, vectors.shape[1]))
        np.add.at(sums, labels, rest)
        means = sums / np.bincount(labels)[:, None]
        vectors = np.concatenate([kept, means.astype(np.float32)])
    return l2_normalise(vectors) if normalise else vectors


def _ward(distances: Floats) -> Merges:
    """Return the merges of Ward's linkage, (height, a, b), by chains of nearest neighbours.

    The distance of a cluster to a merged one follows from those to its parts (Lance and Williams).
    Each merge is named by a member of both clusters. A chain ends in mutual neighbours, whose merge
    no other one can precede (Murtagh 1983).
    """
    count = len(distances)
    square = np.clip(distances.astype(np.float64), 0, 2) ** 2
    np.fill_diagonal(square, np.inf)
    sizes = np.ones(count)
    alive = np.ones(count, bool)
    merges: Merges = []
    chain: list[int] = []
    while len(merges) < count - 1:
        if not chain:
            chain = [int(alive.argmax())]
        a = chain[-1]
        b = int(square[a].argmin())
        before = chain[-2] if len(chain) > 1 else -1
        if before >= 0 and square[a, before] <= square[a, b]:
            b = before
        if b != before:
            chain.append(b)
            continue
        del chain[-2:]
        merges.append((float(np.sqrt(square[a, b])), a, b))
        both = sizes[a] + sizes[b] + sizes
        row = (sizes + sizes[a]) * square[a] + (sizes + sizes[b]) * square[b]
        row = (row - sizes * square[a, b]) / both
        row[~alive] = row[[a, b]] = np.inf
        sizes[b] += sizes[a]
        alive[a] = False
        square[b], square[:, b] = row, row
        square[a], square[:, a] = np.inf, np.inf
    return sorted(merges, key=lambda merge: merge[0])


def _labels(merges: Merges, count: int, clusters: int) -> npt.NDArray[np.int64]:
    """Return the cluster of each vector after the lowest merges, numbered by first member."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for _, a, b in merges[: count - clusters]:
        parent[root(a)] = root(b)
    _, first, inverse = np.unique(
        [root(i) for i in range(count)], return_index=True, return_inverse=True
    )
    order = np.argsort(np.argsort(first))
    numbered: npt.NDArray[np.int64] = order[inverse]
    return numbered
