"""LanceDB as a store: a folder or a bucket, many processes, no server.

What LanceDB leaves to its users is done here: new files are flushed to the disk after a commit,
indexes are folded and versions pruned by us, learned sparse weights have their own postings.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np

from opengte.errors import InputError, MissingExtraError, OpenGTEError
from opengte.search.filters import Filter
from opengte.search.stores.base import (
    DocumentHashes,
    ScoredIds,
    SourceFile,
    SparseVector,
    StoredDocument,
    StoreHealth,
)
from opengte.search.stores.lancedb import (
    checksums,
    damage,
    filters,
    fsync,
    generations,
    maintenance,
)
from opengte.search.stores.lancedb import search as legs
from opengte.search.stores.lancedb.snapshot import SnapshotReader, TableSnapshot, run_coroutine
from opengte.search.stores.listing import (
    HEAD_CHARACTERS,
    DocumentHeader,
    DocumentSummary,
    mean_direction,
)
from opengte.search.stores.sparse_index import SparseIndex
from opengte.types import Floats

T = TypeVar("T")
Writing = Callable[[], AbstractContextManager[None]]

SETTINGS, SOURCES, WINDOWS = "settings", "sources", "windows"
LIST = 500  # ids in one condition
SCAN = 256  # rows held at once by a scan
ATTEMPTS = 8  # of a commit that meets another process's


class LanceStore:
    """A store in a folder, or at a URI such as s3://bucket/kb."""

    name = "lance"

    def __init__(
        self,
        uri: str,
        *,
        durable: bool = True,
        storage_options: Mapping[str, str] | None = None,
        writing: Writing = nullcontext,
    ) -> None:
        try:
            import lancedb
        except ImportError:
            raise MissingExtraError("lancedb", "search", "A knowledge base") from None
        local = "://" not in uri
        self.uri = uri
        self._folder = uri if local else None
        self._synced = fsync.FsyncTracker(uri) if local and durable else None
        self._tables_lock = threading.Lock()
        self._postings_lock = threading.Lock()
        self._inverted: tuple[int, SparseIndex] | None = None
        options = dict(storage_options or {})
        session = lancedb.Session.default()  # one set of caches
        self._database = lancedb.connect(
            uri,
            read_consistency_interval=timedelta(0),
            storage_options=options,
            session=session,
        )
        self._reader = SnapshotReader(uri, WINDOWS, options, session, names=local)
        self._tables: dict[str, Any] = {}
        self._writing = writing  # held while a commit is made

    # --- settings and files ----------------------------------------------------------------------

    def settings(self) -> dict[str, Any] | None:
        """Return what `save_settings` kept, None in a store that is empty."""
        table = self._table(SETTINGS)
        if table is None:
            if self._folder is not None and checksums.kept_settings(self._folder) is not None:
                raise damage.damaged_error(os.path.dirname(self.uri), "its settings are missing")
            return None
        rows = table.search().limit(2).to_list()
        return json.loads(rows[0]["value"]) if rows else None

    def save_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep what the knowledge base must know of itself, and make its tables."""
        import pyarrow as pa

        from opengte.search.stores.lancedb.rows import arrow_schema

        if self._synced is not None and self._table(SETTINGS) is None:
            self._synced.restart()
        text = [pa.field("key", pa.string()), pa.field("value", pa.large_string())]
        short, late = settings.get("first_pass"), settings.get("late") is not None
        self._make(WINDOWS, arrow_schema(settings["dimension"], short, late=late))
        self._make(SOURCES, pa.schema([pa.field("id", pa.string()), *text[1:]]))
        table = self._make(SETTINGS, pa.schema(text))
        row = pa.table({"key": ["settings"], "value": [json.dumps(dict(settings))]})
        row = row.cast(pa.schema(text))
        self._commit(lambda: _replace(table, "key").execute(row))
        if self._folder is not None:
            checksums.keep_settings(self._folder, settings)
        words, language = self.table(WINDOWS), settings.get("language")
        self._commit(
            lambda: maintenance.ensure_text_index(words, language)
        )  # from the start: it is searched

    def sources(self) -> Iterator[SourceFile]:
        """Yield every file that was looked at."""
        for row in self._scan(SOURCES, ["id", "value"]):
            yield SourceFile.from_json(row["id"], row["value"])

    def put_sources(self, sources: Sequence[SourceFile]) -> None:
        """Write what became of files, in place of what was written before."""
        import pyarrow as pa

        if not sources:
            return
        values = pa.array([one.to_json() for one in sources], pa.large_string())
        columns = [pa.array([one.id for one in sources]), values]
        rows = pa.table(columns, names=["id", "value"])
        table = self.table(SOURCES)
        self._commit(lambda: _replace(table, "id").execute(rows))

    def delete_sources(self, ids: Sequence[str]) -> None:
        """Forget files."""
        for part in _parts(ids):
            self._delete(SOURCES, filters.in_list("id", part))

    # --- documents -------------------------------------------------------------------------------

    def put(self, documents: Sequence[StoredDocument]) -> None:
        """Write documents in one commit, in place of those with the same ids."""
        from opengte.search.stores.lancedb.rows import arrow_schema, to_table

        documents = [document for document in documents if document.windows]
        if not documents:
            return
        table = self.table(WINDOWS)
        late = "late_vectors" in table.schema.names
        columns = arrow_schema(_width(table, "vector"), _width(table, "short"), late=late)
        rows = to_table(documents, columns)
        gone = filters.in_list("id", [document.id for document in documents])
        self._commit(
            lambda: (
                _replace(table, ["id", "window"])
                .when_not_matched_by_source_delete(gone)
                .execute(rows)
            )
        )

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents."""
        for part in _parts(ids):
            self._delete(WINDOWS, filters.in_list("id", part))

    def known(self, ids: Sequence[str]) -> dict[str, DocumentHashes]:
        """Return the hashes of those documents that are there."""
        rows = self._select(["id", "content", "row"], "id", ids, "window = 0")
        return {row["id"]: DocumentHashes(row["content"], row["row"]) for row in rows}

    def entries(self) -> Iterator[tuple[str, DocumentHashes]]:
        """Yield the id and the hashes of every document of one version of the store."""
        search = self.table(WINDOWS).search().where("window = 0").limit(None)
        for batch in search.select(["id", "content", "row"]).to_batches(SCAN):
            for row in batch.to_pylist():
                yield row["id"], DocumentHashes(row["content"], row["row"])

    def with_content(self, hashes: Sequence[str]) -> dict[str, StoredDocument]:
        """Return, for each content hash that is there, one document that has it."""
        rows = list(self._select(["id", "content"], "content", hashes, "window = 0"))
        names = {row["content"]: row["id"] for row in rows}
        documents = self.fetch(list(names.values()))
        return {one.content: one for one in documents.values()}

    def fetch(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Return those documents that are there, whole."""
        from opengte.search.stores.lancedb.rows import DISPLAY_COLUMNS, INGEST_COLUMNS

        return self._documents(ids, DISPLAY_COLUMNS + INGEST_COLUMNS, self._reader.snapshot)

    def shown(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Return those documents that are there, without what only indexing needs."""
        from opengte.search.stores.lancedb.rows import DISPLAY_COLUMNS

        return self._documents(ids, DISPLAY_COLUMNS, self._reader.searched)

    def _documents(
        self,
        ids: Sequence[str],
        columns: Sequence[str],
        version: Callable[[], Coroutine[Any, Any, TableSnapshot]],
    ) -> dict[str, StoredDocument]:
        from opengte.search.stores.lancedb.rows import (
            LATE_COLUMNS,
            documents_from_rows,
            table_rows,
        )

        if "late_vectors" in self.table(WINDOWS).schema.names:
            columns = [*columns, *LATE_COLUMNS]

        async def read(part: Sequence[str]) -> Any:
            return await (await version()).rows_of(part, columns)

        rows = [row for part in _parts(ids) for row in table_rows(run_coroutine(read(part)))]
        rows.sort(key=lambda row: (row["id"], row["window"]))
        return {document.id: document for document in documents_from_rows(rows)}

    def documents_of(self, sources: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of the documents of files."""
        found: dict[str, list[str]] = {source: [] for source in sources}
        for row in self._select(["id", "source"], "source", sources, "window = 0"):
            found[row["source"]].append(row["id"])
        return found

    def count(self, where: Filter | None = None) -> int:
        """Return how many documents fit."""
        only = "window = 0" if where is None else f"window = 0 AND {filters.to_sql(where)}"
        return int(self.table(WINDOWS).count_rows(only))

    def scan(self) -> Iterator[StoredDocument]:
        """Yield every document; rows of one document lie together, as one commit wrote them."""
        from opengte.search.stores.lancedb.rows import documents_from_rows

        ids = sorted({row["id"] for row in self._scan(WINDOWS, ["id"])})
        for part in _parts(ids, 64):
            yield from documents_from_rows(
                sorted(self._select(None, "id", part), key=lambda row: (row["id"], row["window"]))
            )

    def sample(self, count: int) -> list[StoredDocument]:
        """Return so many documents from all over the store, the same ones each time."""
        table = self.table(WINDOWS)
        total = int(table.count_rows())
        if not total or count < 1:
            return []
        offsets = list(range(0, total, max(1, total // count)))[:count]
        rows = table.take_offsets(offsets).select(["id"]).to_arrow()
        return list(self.fetch(rows["id"].to_pylist()).values())

    def outline(
        self, where: Filter | None = None, ids: Sequence[str] | None = None
    ) -> Iterator[DocumentHeader]:
        """Yield the documents that fit, without texts; of these ids only where there are some."""
        only = "window = 0" if where is None else f"window = 0 AND {filters.to_sql(where)}"
        columns = ["id", "title", "metadata"]
        if ids is None:
            search = self.table(WINDOWS).search().where(only).select(columns).limit(None)
            batches = search.to_batches(4096)
            rows: Iterator[Any] = (row for batch in batches for row in batch.to_pylist())
        else:
            rows = self._select(columns, "id", ids, only)
        for row in rows:
            yield DocumentHeader(row["id"], row["title"], json.loads(row["metadata"]))

    def portraits(self, ids: Sequence[str]) -> Iterator[DocumentSummary]:
        """Yield the portraits of those documents that are there."""
        text = "substr(indexed_text, cast(text_from as bigint) + 1)"
        head = f"left({text}, {HEAD_CHARACTERS})"
        columns = {name: name for name in ("id", "window", "vector", "metadata")} | {"head": head}
        for part in _parts(ids, 2048):
            held: dict[str, list[Any]] = {}
            for row in self._select(columns, "id", part):
                held.setdefault(row["id"], []).append(row)
            for name, rows in held.items():
                rows.sort(key=lambda row: int(row["window"]))
                vectors = np.array([row["vector"] for row in rows], dtype=np.float32)
                metadata = json.loads(rows[0]["metadata"])
                yield DocumentSummary(
                    name, mean_direction(vectors), rows[0]["head"] or "", metadata
                )

    def revision(self) -> int:
        """Return a number that changes with every commit."""
        return int(self.table(WINDOWS).version)

    # --- search ----------------------------------------------------------------------------------

    def dense(
        self,
        query: Floats,
        k: int,
        where: Filter | None,
        *,
        exact: bool = False,
    ) -> ScoredIds:
        """Return the k documents closest to a vector (d,); exact looks at every one."""
        self.table(WINDOWS)
        return run_coroutine(self._dense(query, k, where, exact=exact))

    async def _dense(
        self, query: Floats, k: int, where: Filter | None, *, exact: bool
    ) -> ScoredIds:
        held = await self._reader.snapshot()
        if exact:
            return await legs.nearest_documents(held, "vector", query, k, where, None)
        if held.first_pass is None:
            return await legs.nearest_documents(
                held, "vector", query, k, where, legs.probes(held.count)
            )
        return await legs.two_pass_search(held, query, k, where)

    def lexical(self, query: str, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by BM25."""
        self.table(WINDOWS)

        async def search() -> ScoredIds:
            return await legs.bm25(await self._reader.snapshot(), query, k, where)

        return run_coroutine(search()) if query.strip() else []

    def sparse(self, query: SparseVector, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by learned sparse weights."""
        allowed = None
        if where is not None:
            only = f"window = 0 AND {filters.to_sql(where)}"
            found = self.table(WINDOWS).search().where(only).select(["id"]).limit(None)
            allowed = frozenset(found.to_arrow()["id"].to_pylist())
        return self._postings().search(query, k, allowed)

    def _postings(self) -> SparseIndex:
        """Return the postings of the version that is there now."""
        table = self.table(WINDOWS)
        with self._postings_lock:
            version = int(table.version)
            if self._inverted is None or self._inverted[0] != version:
                self._inverted = version, legs.build_sparse_index(table)
            return self._inverted[1]

    # --- upkeep ----------------------------------------------------------------------------------

    def optimize(self) -> list[str]:
        """Bring the indexes up to date and tidy up; return what could not be done, and why."""
        table, language = self.table(WINDOWS), (self.settings() or {}).get("language")
        steps: dict[str, Callable[[], object]] = {
            "index of words": lambda: maintenance.ensure_text_index(table, language),
            "index of ids": lambda: maintenance.ensure_id_indexes(table),
            "index of vectors": lambda: maintenance.ensure_vector_index(table),
            "compaction": lambda: maintenance.compact(table, language),
            "compaction of files": lambda: self.table(SOURCES).optimize(
                cleanup_older_than=maintenance.KEEP
            ),
        }
        failed = []
        for name, step in steps.items():
            try:
                self._commit(step)
            except Exception as error:  # an index that fails must not lose documents
                failed.append(f"{name}: {_reason(error)}")
        if self._folder is not None:
            checksums.rewrite(self._folder)
        return failed

    # --- damage ----------------------------------------------------------------------------------

    def remake_indexes(self) -> list[str]:
        """Drop all indexes and make them again; return what could not be done."""
        table = self.table(WINDOWS)
        for name in maintenance.index_names(table):
            self._commit(partial(table.drop_index, name))
        language = (self.settings() or {}).get("language")
        self._commit(lambda: maintenance.ensure_text_index(table, language))
        return self.optimize()

    def copy_readable(
        self, folder: str, name: str, bad: set[str]
    ) -> Iterator[list[dict[str, Any]] | int]:
        """Add the rows of a table of a damaged generation; yield those that cannot be trusted.

        Of rows that cannot be read, yield how many they are.
        """
        old, new = LanceStore(folder, durable=False)._table(name), self.table(name)
        if old is None:
            return
        for rows, sound in damage.readable_rows(folder, name, old, bad):
            if sound:
                self._commit(partial(new.add, rows.cast(new.schema)))
            else:
                yield rows if isinstance(rows, int) else rows.to_pylist()

    def drop_headless(self) -> None:
        """Remove documents whose first window, which has the text, is not there."""
        ids = {row["id"] for row in self._scan(WINDOWS, ["id"])}
        self.delete(sorted(ids - {name for name, _ in self.entries()}))

    def damage_of(self, error: BaseException, place: str) -> OpenGTEError | None:
        """Return the error that a person can use of one that a damaged file raised."""
        return damage.explain_damage(error, place, self._folder)

    def check_sizes(self, place: str) -> None:
        """Raise DamagedIndexError if a file has another size than was written."""
        wrong = checksums.wrong_sizes(self._folder) if self._folder else []
        if wrong:
            raise damage.damaged_error(place, f"`{wrong[0]}` is cut off")

    def health(self) -> StoreHealth:
        """Return the state of the store."""
        size = fsync.folder_bytes(self._folder) if self._folder else None
        return maintenance.table_health(self.table(WINDOWS), self.count(), size)

    # --- LanceDB ---------------------------------------------------------------------------------

    def _table(self, name: str) -> Any:
        """Return a table, None if it is not there."""
        with self._tables_lock:
            if name not in self._tables:
                try:
                    self._tables[name] = self._database.open_table(name)
                except (ValueError, FileNotFoundError):  # what LanceDB raises for a missing table
                    return None
            return self._tables[name]

    def table(self, name: str) -> Any:
        """Return a table of LanceDB; InputError if it is missing."""
        table = self._table(name)
        if table is None:
            raise InputError(f"`{self.uri}` holds no index (its table `{name}` is missing)")
        return table

    def _make(self, name: str, schema: Any) -> Any:
        table = self._table(name)
        if table is None:
            table = self._database.create_table(name, schema=schema, exist_ok=True)
            with self._tables_lock:
                self._tables[name] = table
        return table

    def _commit(self, write: Callable[[], T]) -> T:
        """Write, again where another process came first, and flush to the disk."""
        with self._writing():
            return self._committed(write)

    def _committed(self, write: Callable[[], T]) -> T:
        for attempt in range(ATTEMPTS):
            try:
                result = write()
                break
            except (OSError, RuntimeError) as error:
                if attempt == ATTEMPTS - 1 or not _is_conflict(error):
                    raise OSError(f"cannot write to `{self.uri}`: {_reason(error)}") from error
                time.sleep(0.05 * 2**attempt * (0.5 + np.random.default_rng().random()))
        if self._synced is not None:
            self._synced.sync()
        return result

    def _delete(self, name: str, condition: str) -> None:
        table = self.table(name)
        self._commit(lambda: table.delete(condition))

    def _select(
        self,
        columns: list[str] | dict[str, str] | None,
        key: str,
        values: Sequence[str],
        also: str = "",
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows whose key is among the values."""
        table = self.table(WINDOWS)
        for part in _parts(values):
            condition = filters.in_list(key, part) + (f" AND {also}" if also else "")
            search = table.search().where(condition).limit(None)
            if columns:
                search = search.select(columns)
            yield from search.to_arrow().to_pylist()

    def _scan(self, name: str, columns: list[str]) -> Iterator[dict[str, Any]]:
        for batch in self.table(name).search().select(columns).limit(None).to_batches(SCAN):
            yield from batch.to_pylist()


def open_store(
    path: str, storage_options: Mapping[str, str] | None = None, generation: str | None = None
) -> LanceStore:
    """Return the store of a knowledge base at a folder or URI.

    A generation is one that is not live, and that nobody else writes to; None: the live one.
    """
    name = generation or generations.read_pointer(path, storage_options).current
    place = f"{path.rstrip('/')}/{name}" if "://" in path else os.path.join(path, name)
    writing: Writing = nullcontext
    if generation is None and not generations.is_remote(path):
        writing = partial(generations.write_lock, path, name)
    return LanceStore(place, storage_options=storage_options, writing=writing)


def _width(table: Any, column: str) -> Any:
    """Return how long the vectors of a column are, None if it is not there."""
    schema = table.schema
    return schema.field(column).type.list_size if column in schema.names else None


def _replace(table: Any, key: str | list[str]) -> Any:
    return table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()


def _parts(values: Sequence[str], size: int = LIST) -> Iterator[list[str]]:
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), size):
        yield distinct[start : start + size]


def _reason(error: Exception) -> str:
    """Return what a person can use of an error of LanceDB, which names places in its sources."""
    return " ".join(str(error).split())[:300]


def _is_conflict(error: Exception) -> bool:
    text = str(error).lower()
    return "conflict" in text or "concurrent" in text or "retry" in text
