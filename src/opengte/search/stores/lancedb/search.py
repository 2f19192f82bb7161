"""The legs of a search over a LanceDB table: by vector, by words, by sparse weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from opengte.search.filters import Filter
from opengte.search.segmentation import with_terms
from opengte.search.stores.base import ScoredIds
from opengte.search.stores.lancedb import filters
from opengte.search.stores.lancedb.maintenance import PARTITION
from opengte.search.stores.lancedb.snapshot import TableSnapshot
from opengte.search.stores.sparse_index import SparseIndex
from opengte.types import Floats

SCAN = 4096  # rows held at once by a scan
MAX_CANDIDATES = 100_000  # candidates of one search
MIN_CANDIDATES = 100  # candidates that are scored exactly, however few are wanted
OVERSAMPLING = 4  # candidates of a first pass for each that is wanted
PROBES = 48  # partitions that a search looks into, in a table of ordinary size


async def nearest_documents(
    held: TableSnapshot,
    column: str,
    query: Floats,
    k: int,
    where: Filter | None,
    probes: int | None,
) -> ScoredIds:
    """Return the documents of the windows closest to a vector; probes None looks at every one.

    A document may have many windows, so more are looked for until they belong to k documents.
    """
    wanted = max(k, MIN_CANDIDATES)
    while True:
        search = held.table.query().nearest_to(query).column(column).distance_type("dot")
        if probes is None:
            search = search.bypass_vector_index()
        else:  # the best by few bits, scored by the true vectors
            search = search.nprobes(probes).refine_factor(1)
        names, distances = await _found(held, search, "_distance", wanted, where)
        best = best_score_per_document(names, 1.0 - distances)
        if len(best) >= k or len(names) < wanted or wanted >= MAX_CANDIDATES:
            return best[:k]
        wanted = min(MAX_CANDIDATES, wanted * 4)


async def two_pass_search(
    held: TableSnapshot, query: Floats, k: int, where: Filter | None
) -> ScoredIds:
    """Return the k documents closest to a vector: found by its first dimensions, scored by all."""
    from opengte.search.stores.lancedb.rows import table_vectors, truncate_dimensions

    short = truncate_dimensions(query, held.first_pass or 0)
    first = await nearest_documents(
        held, "short", short, k * OVERSAMPLING, where, probes(held.count)
    )
    rows = await held.rows_of([name for name, _ in first], ["id", "vector"])
    return best_score_per_document(rows["id"].to_pylist(), table_vectors(rows) @ query)[:k]


async def _found(
    held: TableSnapshot, search: Any, score: str, count: int, where: Filter | None
) -> tuple[list[str], Floats]:
    """Return the documents of the rows that a search finds, and their scores."""
    search = search.limit(count)
    if where is not None:
        search = search.where(filters.to_sql(where))  # before the search: LanceDB's default
    if held.names is None:
        rows = await search.select(["id", score]).to_arrow()
        return rows["id"].to_pylist(), rows[score].to_numpy()
    rows = await search.select([score]).with_row_id().to_arrow()
    return held.names.of(rows["_rowid"].to_numpy()), rows[score].to_numpy()


def probes(rows: int) -> int:
    """Return how many partitions a search looks into: a share of them that falls as they grow."""
    return max(PROBES, int(1.5 * (rows / PARTITION) ** 0.5))


async def bm25(held: TableSnapshot, query: str, k: int, where: Filter | None) -> ScoredIds:
    """Return the k best documents by BM25."""
    search = held.table.query().nearest_to_text(with_terms(query), columns="indexed_text")
    return best_score_per_document(*await _found(held, search, "_score", k, where))


def build_sparse_index(table: Any) -> SparseIndex:
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
        return SparseIndex.build([], [])
    lengths, numbers, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return SparseIndex.of(names, lengths, numbers, values)


def best_score_per_document(names: Sequence[str], scores: Any) -> ScoredIds:
    """Return each document with its best score, best first, ties by name."""
    best: dict[str, float] = {}
    for name, score in zip(names, np.asarray(scores).tolist(), strict=True):
        if score > best.get(name, float("-inf")):
            best[name] = score
    return sorted(best.items(), key=lambda one: (-one[1], one[0]))
