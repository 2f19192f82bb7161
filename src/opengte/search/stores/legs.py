"""The legs of a search over a LanceDB table: by vector, by words, by sparse weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from opengte.search.filters import Filter
from opengte.search.stores import sql
from opengte.search.stores.base import Scored
from opengte.search.stores.inverted import Inverted
from opengte.search.stores.upkeep import PARTITION
from opengte.types import Floats

SCAN = 4096  # rows held at once by a scan
MOST = 100_000  # candidates of one search
LEAST = 200  # candidates that are scored exactly, however few are wanted
PROBES = 48  # partitions that a search looks into, in a table of ordinary size


def closest(
    table: Any, column: str, query: Floats, k: int, where: Filter | None, probes: int | None
) -> Scored:
    """Return the documents of the windows closest to a vector; probes None looks at every one.

    A document may have many windows, so more are looked for until they belong to k documents.
    """
    wanted = max(k, LEAST)
    while True:
        search = table.search(query, vector_column_name=column).distance_type("dot")
        search = search.select(["id", "_distance"]).limit(wanted)
        if where is not None:
            search = search.where(sql.where(where), prefilter=True)
        if probes is None:
            search = search.bypass_vector_index()
        else:  # the best by few bits, scored by the true vectors
            search = search.nprobes(probes).refine_factor(1)
        rows = search.to_arrow()
        best = best_windows(rows["id"].to_pylist(), 1.0 - rows["_distance"].to_numpy())
        if len(best) >= k or len(rows) < wanted or wanted >= MOST:
            return best[:k]
        wanted = min(MOST, wanted * 4)


def probes(rows: int) -> int:
    """Return how many partitions a search looks into: a share of them that falls as they grow."""
    return max(PROBES, int(1.5 * (rows / PARTITION) ** 0.5))


def words(table: Any, query: str, k: int, where: Filter | None) -> Scored:
    """Return the k best documents by BM25."""
    search = table.search(query, query_type="fts", fts_columns="indexed_text")
    search = search.select(["id", "_score"]).limit(k)
    if where is not None:
        search = search.where(sql.where(where), prefilter=True)
    rows = search.to_arrow()
    return best_windows(rows["id"].to_pylist(), rows["_score"].to_numpy())


def postings(table: Any) -> Inverted:
    """Return the learned sparse weights of all windows, by token."""
    names: list[str] = []
    parts: list[tuple[Any, Any, Any]] = []
    search = table.search().select(["id", "sparse_ids", "sparse_weights"]).limit(None)
    for batch in search.to_batches(SCAN):
        names += batch.column("id").to_pylist()
        tokens, weights = batch.column("sparse_ids"), batch.column("sparse_weights")
        lengths = np.asarray(tokens.value_lengths().fill_null(0), np.int64)
        parts.append((lengths, np.asarray(tokens.flatten()), np.asarray(weights.flatten())))
    if not parts:
        return Inverted.build([], [])
    lengths, numbers, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Inverted.of(names, lengths, numbers, values)


def best_windows(names: Sequence[str], scores: Any) -> Scored:
    """Return each document with its best score, best first, ties by name."""
    best: dict[str, float] = {}
    for name, score in zip(names, np.asarray(scores).tolist(), strict=True):
        if score > best.get(name, float("-inf")):
            best[name] = score
    return sorted(best.items(), key=lambda one: (-one[1], one[0]))
