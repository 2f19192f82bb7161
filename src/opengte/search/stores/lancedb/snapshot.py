"""Snapshots of a LanceDB table, read through its asynchronous interface on one event loop.

LanceDB's blocking interface makes six round trips to its own thread for one query; this makes one.
A version is held while it is the newest, so that row numbers stay valid. The document of each row
is read into memory beside the first searches, because fetching the ids of 200 rows from disk takes
longer than finding the rows.

Letters in shapes: n rows, v documents.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from opengte.search.stores.lancedb import filters

T = TypeVar("T")
RowIds = npt.NDArray[np.uint64]
MOST_SEEN = 100_000  # documents whose place is remembered


def run_coroutine(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns, from any thread."""
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="lancedb reads", daemon=True).start()
    return loop


class RowOwners:
    """Which document each row belongs to."""

    def __init__(self, names: Any, rows: RowIds) -> None:
        """Take the name (Arrow strings) and the number of each row, in any order."""
        coded = names.dictionary_encode()
        order = np.argsort(rows)
        self._rows = rows[order]
        self._documents = coded.indices.to_numpy(zero_copy_only=False).astype(np.int32)[order]
        self._names = coded.dictionary
        self._order = np.argsort(self._documents, kind="stable").astype(np.int32)
        counts = np.bincount(self._documents, minlength=len(self._names))
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._seen: dict[str, int] = {}  # documents that a search has found lately

    def of(self, rows: RowIds) -> list[str]:
        """Return the documents of rows."""
        import pyarrow as pa

        documents = self._documents[np.searchsorted(self._rows, rows)]
        names: list[str] = self._names.take(pa.array(documents)).to_pylist()
        if len(self._seen) > MOST_SEEN:
            self._seen = {}
        self._seen.update(zip(names, documents.tolist(), strict=True))
        return names

    def rows(self, names: Iterable[str]) -> list[int] | None:
        """Return the rows of documents, None if one of them was not found by a search lately."""
        seen = self._seen
        documents = [seen.get(name) for name in names]
        if None in documents:
            return None
        spans = [slice(*self._starts[one : one + 2]) for one in documents if one is not None]
        return [row for span in spans for row in self._rows[self._order[span]].tolist()]


class TableSnapshot:
    """A version of a table, how many rows it has, the width of its vectors for a first pass."""

    def __init__(self, table: Any, version: int, count: int, first_pass: int | None) -> None:
        self.table, self.version = table, version
        self.count, self.first_pass = count, first_pass
        self._reading: Future[RowOwners] | None = None

    @property
    def names(self) -> RowOwners | None:
        """Which document each row belongs to, None until that is read, or where it cannot be."""
        reading = self._reading
        if reading is None or not reading.done() or reading.exception() is not None:
            return None
        return reading.result()

    def read_names(self) -> "Future[RowOwners]":
        """Begin to read which document each row belongs to."""
        if self._reading is None:
            self._reading = asyncio.run_coroutine_threadsafe(self._names(), _loop())
        return self._reading

    async def _names(self) -> RowOwners:
        table = await self.table.query().select(["id"]).with_row_id().to_arrow()
        names, rows = table["id"].combine_chunks(), table["_rowid"].to_numpy()
        return await asyncio.to_thread(RowOwners, names, rows)

    async def rows_of(self, ids: Sequence[str], columns: Sequence[str]) -> Any:
        """Return the rows of documents as an Arrow table: by number, or else by name."""
        numbers = self.names.rows(ids) if self.names else None
        if numbers is None:
            search = self.table.query().where(filters.in_list("id", ids))
        else:
            search = self.table.take_row_ids(numbers)
        return await search.select(list(columns)).to_arrow()


class SnapshotReader:
    """The newest version of a table."""

    def __init__(
        self, uri: str, name: str, options: Mapping[str, str], session: Any, *, names: bool
    ) -> None:
        """names: read which document each row belongs to; from a bucket that is a download."""
        self._uri, self._name, self._options = uri, name, dict(options)
        self._session, self._read_names = session, names
        self._database: Any = None
        self._live: Any = None
        self._held: TableSnapshot | None = None

    async def searched(self) -> TableSnapshot:
        """Return the version that the last search saw."""
        return self._held or await self.snapshot()

    async def snapshot(self) -> TableSnapshot:
        """Return the newest version, opened again only where there is a newer one."""
        if self._live is None:
            self._live = await self._open()
        version = int(await self._live.version())
        held = self._held
        if held is None or held.version != version:
            table = await self._open()
            await table.checkout(version)
            schema, count = await table.schema(), int(await table.count_rows())
            short = schema.field("short").type.list_size if "short" in schema.names else None
            held = self._held = TableSnapshot(table, version, count, short)
        if self._read_names:
            held.read_names()
        return held

    async def _open(self) -> Any:
        import lancedb

        if self._database is None:
            self._database = await lancedb.connect_async(
                self._uri,
                read_consistency_interval=timedelta(0),
                storage_options=self._options,
                session=self._session,
            )
        return await self._database.open_table(self._name)
