"""Passages in bulk: computed in shards as an index computes them, and loaded into an index.

`bulk/` computes shards and knows no index; `search/` has indexes and knows no shards.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from opengte.bulk.parquet import require_pyarrow
from opengte.bulk.shards.columns import ColumnMaker, Content, VectorColumns, check_columns
from opengte.bulk.shards.plan import BulkOptions, BulkPlan, BulkShard, shard_file
from opengte.bulk.shards.worker import WorkerSettings, load_encoder
from opengte.errors import InputError
from opengte.search.index import Index
from opengte.search.ingest.embedder import EmbeddedDocument, Embedder
from opengte.search.ingest.pipeline import ADDED, index_embedded, tidy_store
from opengte.search.ingest.writer import Document, IngestReport
from opengte.search.parse.base import ParsedDocument, Scalar
from opengte.search.stores.base import SpanVectors, StoredWindow

if TYPE_CHECKING:
    from opengte.encoder import Encoder

PASSAGES = "passages"
ROWS = 1024  # of a shard that are held at once
LEDGER = "loaded"  # setting of an index: which shards of which plans it has
OWN = ("id", "row", "content_hash", "title", "text", "token_count", "truncated_from", "windows")


def columns_for(outputs: Sequence[str]) -> ColumnMaker:
    """Return what computes the columns of outputs: vectors, or the passages of an index."""
    return PassageColumns if PASSAGES in outputs else VectorColumns


class PassageColumns:
    """What an index stores of a document: its windows, each with a vector and its passages."""

    def __init__(self, encoder: "Encoder", options: BulkOptions) -> None:
        check_columns(options, (PASSAGES,))
        unset = (options.role, options.instruction, options.dimensions)
        if unset != (None, None, None) or options.dtype != "float32":
            raise InputError(
                "role, instruction, dimensions and dtype are not for passages: an index decides"
            )
        pa = self._pa = require_pyarrow("bulk embedding")
        self._embedder = Embedder(encoder)
        window = {
            "start": pa.int32(),
            "end": pa.int32(),
            "tokens": pa.int32(),
            "vector": pa.list_(pa.float32(), encoder.card.dimension),
            "bounds": pa.list_(pa.int32()),
            "scales": pa.list_(pa.float32()),
            "spans": pa.binary(),
            "sparse": pa.map_(pa.uint32(), pa.float32()),
        }
        windows = pa.list_(pa.struct(list(window.items())))
        columns = {"token_count": pa.int32(), "truncated_from": pa.int32(), "windows": windows}
        self.schema = pa.schema(list(columns.items()))

    def table(self, contents: Sequence[Content]) -> Any:
        """Return the windows of documents, a row each."""
        made = self._embedder.embed([(title, text, ()) for title, text in contents])
        rows = []
        for one in made:
            tokens = sum(window.tokens for window in one.windows)
            windows = [_window_row(window) for window in one.windows]
            cut = tokens if one.truncated else None
            rows.append({"token_count": tokens, "truncated_from": cut, "windows": windows})
        return self._pa.Table.from_pylist(rows, self.schema)


def _window_row(window: StoredWindow) -> dict[str, Any]:
    return {
        "start": window.start,
        "end": window.end,
        "tokens": window.tokens,
        "vector": window.vector,
        "bounds": window.spans.bounds.reshape(-1),
        "scales": window.spans.scales,
        "spans": window.spans.vectors.tobytes(),
        "sparse": list(window.sparse.items()),
    }


def _stored_window(row: Mapping[str, Any]) -> StoredWindow:
    vector, scales = np.array(row["vector"], np.float32), np.array(row["scales"], np.float32)
    bounds = np.array(row["bounds"], np.int32).reshape(-1, 2)
    spans = np.frombuffer(row["spans"], np.int8).reshape(len(scales), len(vector))
    made = SpanVectors(bounds, spans, scales)
    return StoredWindow(row["start"], row["end"], vector, made, row["tokens"], dict(row["sparse"]))


def open_target(
    plan: BulkPlan,
    place: str,
    *,
    language: str | None = "English",
    instruction: str | None = None,
    first_pass: int | None = None,
    threads: int | None = None,
) -> Index:
    """Open the index that a run is loaded into, or make it with the model of the plan.

    Raises InputError if the index there was made by another model.
    """
    from opengte.search.index import index_exists
    from opengte.search.ingest.windows import SPAN_TOKENS

    encoder = load_encoder(WorkerSettings(plan.place.url, plan.options, threads=threads))
    if index_exists(place):
        return Index.open(place, encoder)
    settings = {
        "passages": "auto",
        "span_tokens": SPAN_TOKENS,
        "window_tokens": None,
        "first_pass": first_pass,
        "language": language,
    }
    return Index.create(place, encoder, settings, instruction)


def load_run(
    plan: BulkPlan,
    index: Index,
    *,
    writers: int = 1,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> IngestReport:
    """Write the documents of a run into an index, as if they had been added to it.

    writers load as many shards at the same time. The index keeps which shards it has, so that a
    call that was interrupted goes on, and a repeated one does nothing; documents that are there
    already are left. Raises InputError if the run has no passages, or a shard is not computed yet.
    """
    if PASSAGES not in plan.options.outputs:
        raise InputError(
            f"`{plan.place.url}` has {', '.join(plan.options.outputs)} and no passages, which an "
            "index answers with: plan with --outputs passages"
        )
    ledger, report = _Ledger(index, plan), IngestReport()
    shards = (shard for shard in plan.shards() if shard.number not in ledger)

    def load(shard: BulkShard) -> tuple[BulkShard, IngestReport]:
        return shard, index_embedded(index.store, _documents(plan, shard))

    with ThreadPoolExecutor(writers) as threads:
        waiting: set[Future[tuple[BulkShard, IngestReport]]] = set()
        while waiting := waiting | {
            threads.submit(load, one) for one in islice(shards, 2 * writers - len(waiting))
        }:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for shard, own in (future.result() for future in done):
                ledger.add(shard.number)
                _add(report, own)
                on_progress(shard.rows)
    if report.new or report.changed:
        tidy_store(index.store, report)
    ledger.save()
    return report


def _add(report: IngestReport, own: IngestReport) -> None:
    for name in ("new", "changed", "unchanged", "truncated"):
        setattr(report, name, getattr(report, name) + getattr(own, name))
    report.skipped += own.skipped


def _documents(plan: BulkPlan, shard: BulkShard) -> Iterator[tuple[Document, EmbeddedDocument]]:
    """Yield the documents of a shard with their windows."""
    arrow = require_pyarrow("loading")
    name = shard_file(shard.number)
    try:
        stream = plan.place.open(name)
    except FileNotFoundError:
        raise InputError(
            f"`{plan.place.path(name)}` is not there: the run is not complete. Continue it: "
            f"gte bulk run {plan.place.url}"
        ) from None
    with stream, arrow.parquet.ParquetFile(stream) as table:
        for batch in table.iter_batches(batch_size=ROWS):
            for row in batch.to_pylist():
                yield _document(row)


def _document(row: Mapping[str, Any]) -> tuple[Document, EmbeddedDocument]:
    metadata: dict[str, Scalar] = {k: v for k, v in row.items() if k not in OWN and v is not None}
    parsed = ParsedDocument(row["text"], title=row["title"], metadata=metadata)
    windows = tuple(_stored_window(window) for window in row["windows"])
    truncated = row["truncated_from"] is not None
    return Document(row["id"], ADDED, parsed), EmbeddedDocument(windows, truncated)


class _Ledger:
    """Which shards of a plan an index has, as ranges in its settings."""

    def __init__(self, index: Index, plan: BulkPlan) -> None:
        self._index, self._digest = index, plan.digest
        settings = index.store.settings() or {}
        ranges = settings.get(LEDGER, {}).get(plan.digest, [])
        self._have = {number for first, last in ranges for number in range(first, last)}
        self._new = 0

    def __contains__(self, number: int) -> bool:
        return number in self._have

    def add(self, number: int) -> None:
        """Add a shard, and now and then keep what was added."""
        self._have.add(number)
        self._new += 1
        if self._new >= 8:
            self.save()

    def save(self) -> None:
        """Keep the shards in the settings of the index."""
        if self._new:
            self._new = 0
            self._index.change_settings(self._changed)

    def _changed(self, settings: dict[str, Any]) -> dict[str, Any]:
        loaded = {**settings.get(LEDGER, {}), self._digest: _ranges(self._have)}
        return {**settings, LEDGER: loaded}


def _ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Return ranges, from and to, of numbers.

    >>> _ranges([3, 1, 2, 7])
    [[1, 4], [7, 8]]
    """
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1][1] += 1
        else:
            found.append([number, number + 1])
    return found
