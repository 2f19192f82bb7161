"""Spherical k-means: cluster vectors by direction, a block of rows at a time.

Letters in shapes: n rows, d width, k centres.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opengte.embedding_ops import l2_normalise
from opengte.types import Floats, Ints

BLOCK = 2**22  # similarities that are held at once
ROUNDS = 50  # of moving centres, at most
STARTS = 4  # from which the best is taken
FITTED = 20_000  # rows from which centres are found; one more round moves them by all rows
JUDGED = 2_000  # rows whose silhouettes choose the number of clusters
MOST = 64  # clusters that are tried when nobody says how many
CLEAR = 0.25  # silhouette from which groups count as groups, and not as parts of one cloud
USEFUL = 8  # groups at least, of one cloud: two halves of everything say nothing

Generator = np.random.Generator


@dataclass(frozen=True, eq=False)
class KMeansResult:
    """labels (n,) int32, the similarity (n,) of each row to its centre, centres (k, d)."""

    labels: Ints
    similarity: Floats
    centres: Floats


def assign(rows: Floats, centres: Floats) -> tuple[Ints, Floats]:
    """Return the closest centre of each row, the first of equal ones, and the cosine to it."""
    labels = np.zeros(len(rows), np.int32)
    similarity = np.zeros(len(rows), np.float32)
    step = max(1, BLOCK // max(1, len(centres)))
    for start in range(0, len(rows), step):
        found = rows[start : start + step] @ centres.T
        labels[start : start + step] = found.argmax(axis=1)
        similarity[start : start + step] = found.max(axis=1)
    return labels, similarity


def centres_of(rows: Floats, labels: Ints, old: Floats) -> Floats:
    """Return the mean direction of each group; a group without rows keeps its old centre."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=len(old))
    edges = np.concatenate([[0], np.cumsum(counts)])
    sums = np.array(
        [rows[order[a:b]].sum(axis=0) for a, b in zip(edges, edges[1:], strict=False)], np.float32
    )
    sums[counts == 0] = old[counts == 0]
    return l2_normalise(sums)


def lloyd(rows: Floats, centres: Floats, rounds: int = ROUNDS) -> KMeansResult:
    """Move centres to the means of their rows until no row changes its group."""
    labels, similarity = assign(rows, centres)
    for _ in range(rounds):
        centres = centres_of(rows, labels, centres)
        before = labels
        labels, similarity = assign(rows, centres)
        if np.array_equal(before, labels):
            break
    return KMeansResult(labels, similarity, centres)


def kmeans(rows: Floats, count: int, seed: int, starts: int = STARTS) -> KMeansResult:
    """Group unit rows (n, d) around `count` centres; the best of several starts."""
    random = np.random.default_rng(seed)
    sample = rows[_some(len(rows), FITTED, random)]
    best: KMeansResult | None = None
    for _ in range(starts):
        found = lloyd(sample, kmeans_plus_plus(sample, count, random))
        if best is None or found.similarity.sum() > best.similarity.sum():
            best = found
    assert best is not None
    return best if len(sample) == len(rows) else lloyd(rows, best.centres, rounds=3)


def kmeans_plus_plus(rows: Floats, count: int, random: Generator) -> Floats:
    """Choose rows to start from, each with a chance that grows with its distance from the others.

    This is greedy k-means++: of a few rows drawn, the one that leaves the others closest is taken.
    Fewer come back where there are fewer distinct rows.
    """
    drawn = 2 + int(np.log(max(1, count)))
    chosen = [int(random.integers(len(rows)))]
    far = np.maximum(1.0 - rows @ rows[chosen[0]], 0.0).astype(np.float64)
    for _ in range(count - 1):
        chance = np.where(far < 1e-6, 0.0, far)  # the same row is not taken again
        if chance.sum() <= 0:
            break
        tried = random.choice(len(rows), drawn, p=chance / chance.sum())
        left = np.minimum(far, 1.0 - rows[tried] @ rows.T)
        best = int(left.sum(axis=1).argmin())
        chosen.append(int(tried[best]))
        far = np.maximum(left[best], 0.0)
    return rows[chosen]


def choose_count(rows: Floats, seed: int) -> int:
    """Return the number of groups that a sample of the rows falls into most clearly.

    Where no number is clear, as with most collections of texts, it is at least USEFUL.
    """
    sample = rows[_some(len(rows), JUDGED, np.random.default_rng(seed))]
    most = min(MOST, int(len(sample) ** 0.5) + 1)
    tried = sorted({round(2 * 1.25**power) for power in range(24)})
    worth = {
        count: silhouette(sample, kmeans(sample, count, seed, starts=2).labels)
        for count in tried
        if count <= most
    }
    if max(worth.values(), default=0.0) < CLEAR and most > USEFUL:
        worth = {count: value for count, value in worth.items() if count >= USEFUL}
    return max(worth, key=lambda count: worth[count], default=1)


def silhouette(rows: Floats, labels: Ints) -> float:
    """Return how much closer rows are to their own group than to the next, -1 to 1, on average.

    The distance is 1 - cosine. A row that is alone in its group counts as 0. What is summed up are
    sums of groups, not pairs: k times d numbers a row.
    """
    names, own = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        return 0.0
    counts = np.bincount(own)
    sums = np.array([rows[own == group].sum(axis=0) for group in range(len(names))])
    similar = rows @ sums.T  # the sum of the cosines to each group
    each = np.arange(len(rows))
    others = 1.0 - similar / counts
    norms = np.einsum("nd,nd->n", rows, rows)
    mine = 1.0 - (similar[each, own] - norms) / np.maximum(counts[own] - 1, 1)
    others[each, own] = np.inf
    next_ = others.min(axis=1)
    values = (next_ - mine) / np.maximum(np.maximum(mine, next_), 1e-12)
    return float(np.where(counts[own] > 1, values, 0.0).mean())


def _some(total: int, most: int, random: Generator) -> npt.NDArray[np.intp]:
    if total <= most:
        return np.arange(total)
    return np.sort(random.choice(total, most, replace=False))
