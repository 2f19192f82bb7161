"""Indexes of a LanceDB table: made, brought up to date, compacted, counted.

The history of full-text indexes and compaction is the risk here: old versions that are never
cleaned up, rows that no index covers. So all of it is done by us and told by `health`.
"""

import contextlib
from datetime import timedelta
from typing import Any

from opengte.search.stores.base import StoreHealth

PARTITION = 512  # vectors of a part of their index, about
RABITQ_FROM = 256  # dimensions from which few bits of each find the candidates
BITS = 4  # of each: with one the best 10 are found, but of the best 200 only three quarters
INDEX_FROM = 10_000  # rows below which looking at every vector is fast enough
KEEP = timedelta(hours=1)  # of old versions: as long as a reader may hold one
TEXT_INDEX, VECTOR_INDEX = "words", "vectors"


def ensure_text_index(table: Any, language: str | None) -> None:
    """Make the index of words, unless it is there."""
    from lancedb.index import FTS

    if TEXT_INDEX in index_names(table):
        return
    config = FTS(
        with_position=False,  # phrases are not searched, and positions broke compaction before
        language=language or "English",
        stem=language is not None,
        remove_stop_words=False,
        ascii_folding=True,
    )
    table.create_index("indexed_text", config=config, name=TEXT_INDEX, replace=True)


def ensure_id_indexes(table: Any) -> None:
    """Make the indexes of columns that are looked up, in a table that is large enough."""
    from lancedb.index import BTree

    if table.count_rows() < INDEX_FROM:
        return
    for column in ("id", "source", "content"):
        if f"{column}_idx" not in index_names(table):
            table.create_index(column, config=BTree(), name=f"{column}_idx", replace=True)


def ensure_vector_index(table: Any) -> None:
    """Make the index of vectors, in a table that is large enough."""
    rows = table.count_rows()
    if rows < INDEX_FROM or VECTOR_INDEX in index_names(table):
        return
    column = "short" if "short" in table.schema.names else "vector"
    config = vector_config(table.schema.field(column).type.list_size)
    table.create_index(column, config=config, name=VECTOR_INDEX, replace=True)


def vector_config(width: int) -> Any:
    """Return the kind of index for vectors of a width: few bits a dimension where they are enough.

    The size of parts is given, not their number: the first `optimize` would join parts that are
    smaller than it was told, until a search reads nearly everything.
    """
    from lancedb.index import IvfRq, IvfSq

    common: dict[str, Any] = {
        "distance_type": "dot",
        "target_partition_size": PARTITION,
        "sample_rate": 64,
        "max_iterations": 20,
    }
    if width >= RABITQ_FROM and width % 8 == 0:
        return IvfRq(num_bits=BITS, **common)
    return IvfSq(**common)


def compact(table: Any, language: str | None) -> None:
    """Merge small files, take new rows into the indexes, drop old versions."""
    try:
        table.optimize(cleanup_older_than=KEEP)
    except Exception:
        with contextlib.suppress(Exception):
            table.drop_index(TEXT_INDEX)  # what has failed before, and is quickly made again
        ensure_text_index(table, language)
        table.optimize(cleanup_older_than=KEEP)


def index_names(table: Any) -> set[str]:
    """Return the names of the indexes of a table."""
    return {one.name for one in table.list_indices()}


def table_health(table: Any, documents: int, size: int | None) -> StoreHealth:
    """Return the state of a table."""
    unindexed, kinds = {}, {}
    for one in table.list_indices():
        stats = table.index_stats(one.name)
        kinds[one.name] = str(one.index_type)
        unindexed[one.name] = int(stats.num_unindexed_rows) if stats else 0
    versions = table.list_versions()
    return StoreHealth(
        documents=documents,
        windows=int(table.count_rows()),
        bytes=size,
        versions=len(versions),
        unindexed=unindexed,
        indexes=kinds,
        details={"version": int(table.version), "changed": versions[-1]["timestamp"]},
    )
