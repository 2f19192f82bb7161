"""Cluster vectors, and name each cluster by its characteristic words.

Letters in shapes: n rows, d width, k clusters.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opengte.embedding_ops import l2_normalise
from opengte.errors import InputError
from opengte.search.analysis import kmeans
from opengte.search.retrieval.search import STOPWORDS
from opengte.types import Floats, Ints

NAMED_BY = 200  # texts of a cluster, those in its middle, whose words name it
READ = 4_000  # characters of a text that are looked at for words
WORDS_OF_NAME = 3
STRAY = 4.0  # deviations below the others of its cluster from which a row belongs to none
WORDS = re.compile(r"[^\W\d_]{2,}(?:[-'’][^\W\d_]+)*")


@dataclass(frozen=True, eq=False)
class Clusters:
    """labels (n,) int32, -1 for a row that belongs to none; clusters are numbered by size.

    names are a cluster's own words; medoids (k,) the row in the middle of each; similarity (n,) the
    cosine of each row to the centre of its cluster (of a row that belongs to none: the closest).
    """

    labels: Ints
    names: list[str]
    medoids: npt.NDArray[np.int64]
    similarity: Floats

    @property
    def sizes(self) -> list[int]:
        """Return the rows of each cluster."""
        kept = self.labels[self.labels >= 0]
        sizes: list[int] = np.bincount(kept, minlength=len(self.names)).tolist()
        return sizes


def cluster(
    vectors: Floats, texts: Sequence[str], *, count: int | None = None, seed: int = 0
) -> Clusters:
    """Group vectors (n, d) by direction and name the groups by the words of their texts.

    Without a count, the clearest number of groups is taken. Memory beyond the vectors is bounded;
    the same input gives the same clusters.
    """
    rows = _rows(vectors, texts, count)
    if not len(rows):
        none = np.zeros(0, np.int64)
        return Clusters(none.astype(np.int32), [], none, none.astype(np.float32))
    found = kmeans.kmeans(rows, count or kmeans.choose_count(rows, seed), seed)
    labels, order = _by_size(_without_strays(found, rows), len(found.centres))
    medoids = np.array([_medoid(rows, labels, c) for c in range(len(order))], np.int64)
    return Clusters(
        labels, name_clusters(labels, found.similarity, texts), medoids, found.similarity
    )


def _rows(vectors: Floats, texts: Sequence[str], count: int | None) -> Floats:
    rows = np.asarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or len(rows) != len(texts):
        raise InputError(
            f"vectors have the shape {rows.shape}, texts are {len(texts)}: expected (n, d) and n"
        )
    if count is not None and not 1 <= count <= max(1, len(rows)):
        raise InputError(f"count is {count}, expected 1 to {len(rows)}, the number of vectors")
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise InputError(f"vector {bad} holds values that are not finite")
    return l2_normalise(rows)


def _without_strays(found: kmeans.KMeansResult, rows: Floats) -> Ints:
    """Return the labels, -1 for rows far below what is usual in their cluster, and zero vectors."""
    labels = found.labels.copy()
    for number in range(len(found.centres)):
        inside = np.flatnonzero(found.labels == number)
        if len(inside) < 3:  # two rows say nothing of what is usual
            continue
        values = found.similarity[inside]
        middle = np.median(values)
        deviation = 1.4826 * np.median(np.abs(values - middle))
        labels[inside[values < middle - STRAY * max(float(deviation), 1e-3)]] = -1
    labels[~rows.any(axis=1)] = -1
    return labels


def _by_size(labels: Ints, count: int) -> tuple[Ints, list[int]]:
    """Give the clusters that have rows numbers by their size, the largest 0."""
    sizes = np.bincount(labels[labels >= 0], minlength=count)
    order = [int(c) for c in np.argsort(-sizes, kind="stable") if sizes[c]]
    numbers = np.full(count + 1, -1, np.int32)  # the last one is for -1
    numbers[order] = np.arange(len(order), dtype=np.int32)
    return numbers[labels], order


def _medoid(rows: Floats, labels: Ints, number: int) -> int:
    """Return the row that is closest to all rows of its cluster together."""
    inside = np.flatnonzero(labels == number)
    values = rows[inside] @ rows[inside].sum(axis=0)
    return int(inside[values.argmax()])


def name_clusters(labels: Ints, similarity: Floats, texts: Sequence[str]) -> list[str]:
    """Return a name for each cluster: words that many of its texts have and others have not.

    This is class-based TF-IDF: the share of a cluster's texts that hold a word, times the logarithm
    of how much larger that is than over all clusters. Read are the texts in the middle of each.
    """
    shares = []
    for number in range(int(labels.max(initial=-1)) + 1):
        inside = np.flatnonzero(labels == number)
        middle = inside[np.argsort(-similarity[inside], kind="stable")][:NAMED_BY]
        shares.append(_shares([texts[row] for row in middle.tolist()]))
    everywhere: dict[str, float] = {}
    for share in shares:
        for word, value in share.items():
            everywhere[word] = everywhere.get(word, 0.0) + value
    found: list[str] = []
    for number, share in enumerate(shares):
        name = _name(share, everywhere, len(shares))
        found.append(name if name and name not in found else f"{name or 'cluster'} {number + 1}")
    return found


def _shares(texts: Sequence[str]) -> dict[str, float]:
    """Return in what share of the texts each word is."""
    held: Counter[str] = Counter()
    for text in texts:
        held.update({word.lower() for word in WORDS.findall(text[:READ])} - STOPWORDS)
    return {word: count / len(texts) for word, count in held.items()}


def _name(share: dict[str, float], everywhere: dict[str, float], clusters: int) -> str:
    def worth(word: str) -> float:
        more = np.log(clusters * share[word] / everywhere[word]) if clusters > 1 else 1.0
        return float(share[word] * more) * (len(word) > 2 or not word.isascii())

    chosen: list[str] = []
    for word in sorted(share, key=lambda word: (-worth(word), word)):
        if worth(word) <= 0 or len(chosen) == WORDS_OF_NAME:
            break
        if not any(word.startswith(one[:5]) and one.startswith(word[:5]) for one in chosen):
            chosen.append(word)
    return ", ".join(chosen)
