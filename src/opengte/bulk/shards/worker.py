"""The pure function of a run: a shard in, the bytes of its file out.

The bytes depend on the plan and the input alone: contents that are equal are computed once, in the
order in which they come, and in windows of fixed size.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np

from opengte.bulk.parquet import require_pyarrow
from opengte.bulk.shards.columns import ColumnMaker, Content, ContentColumns, VectorColumns
from opengte.bulk.shards.duplicates import content_hash
from opengte.bulk.shards.inputs import InputRow, RowsDigest, read_range
from opengte.bulk.shards.places import Place
from opengte.bulk.shards.plan import BulkOptions, BulkShard, shard_file
from opengte.bulk.types import InvalidRow
from opengte.errors import EngineError, InputError, OpenGTEError

WINDOW = 1024  # contents that are computed at once, and rows of a row group
SHARD, DIGEST, COUNTS = b"opengte.shard", b"opengte.digest", b"opengte.counts"


@dataclass(frozen=True)
class ShardTask:
    """A shard to be computed.

    for_others: only the contents that others take from it, into a file of their own. skip are rows
    that ended a worker, with the reason; only, from and to, are the rows that are tried to find
    such a row: nothing is published then.
    """

    shard: BulkShard
    for_others: bool = False
    skip: tuple[tuple[int, str], ...] = ()
    only: tuple[int, int] | None = None

    @property
    def file(self) -> str:
        """Return the name of the file that is made."""
        return shard_file(self.shard.number, "shared" if self.for_others else "shards")


@dataclass(frozen=True)
class ShardCounts:
    """What became of the rows of a shard; tokens and computed are those of what was computed."""

    rows: int = 0
    written: int = 0
    failed: int = 0
    truncated: int = 0
    computed: int = 0
    tokens: int = 0

    def plus(self, other: "ShardCounts") -> "ShardCounts":
        """Add the counts of another shard."""
        mine, theirs = asdict(self), asdict(other)
        return ShardCounts(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True)
class FailedRow:
    """A row that was set aside, and why."""

    file: str
    row: int
    id: str | None
    reason: str


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs, wherever it runs."""

    run: str
    options: BulkOptions
    columns: ColumnMaker = VectorColumns
    load: Callable[..., Any] | None = None  # of the encoder; None: `Encoder.load`
    threads: int | None = None
    device: str | None = None


class ShardWorker:
    """Loads the model of a plan, and computes shards."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._place = Place(settings.run)
        self._base = Place(self._place.url.rpartition("/")[0])
        self._options = settings.options
        self._columns = settings.columns(load_encoder(settings), settings.options)

    def run(self, task: ShardTask) -> ShardCounts:
        """Compute and publish a shard, unless its file is there already."""
        found = footer(self._place, task.file) if task.only is None else None
        if found is not None and (done := _counts_in(found, task)) is not None:
            return done
        content, failed, counts = compute_shard(task, self._options, self._columns, self._base)
        if task.only is None:
            if failed and not task.for_others:
                lines = [json.dumps(asdict(row)) + "\n" for row in failed]
                name = shard_file(task.shard.number, "failed", ".jsonl")
                self._place.publish(name, "".join(lines).encode(), replace=True)
            damaged = found is None and self._place.exists(task.file)
            self._place.publish(task.file, content, replace=damaged or found is not None)
        return counts

    def ready(self) -> bool:
        """Return True: the model is loaded."""
        return True


def load_encoder(settings: WorkerSettings) -> Any:
    """Load the model of a plan; EngineError if it is not the one that the plan was made with."""
    options = settings.options
    load = settings.load
    if load is None:
        from opengte.encoder import Encoder

        load = Encoder.load
    encoder = load(
        options.model,
        revision=options.revision,
        engine=options.engine,
        precision=options.precision,
        max_length=options.max_length,
        offline=options.offline,
        threads=settings.threads,
        device=settings.device,
    )
    if encoder.card.fingerprint != options.fingerprint:
        raise EngineError(
            f"`{options.model}` has the fingerprint {encoder.card.fingerprint} here, and "
            f"{options.fingerprint} in the plan: its files changed. Plan again"
        )
    return encoder


def finished(place: Place, task: ShardTask) -> ShardCounts | None:
    """Return the counts of a shard whose file is there and whose footer is that of the shard."""
    metadata = footer(place, task.file)
    return None if metadata is None else _counts_in(metadata, task)


def _counts_in(metadata: Mapping[bytes, bytes], task: ShardTask) -> ShardCounts | None:
    if metadata.get(SHARD, b"").decode() != shard_identity(task):
        return None
    return ShardCounts(**json.loads(metadata[COUNTS]))


def footer(place: Place, file: str) -> Mapping[bytes, bytes] | None:
    """Return the metadata of a file of a shard; None if it is not there, or not whole."""
    arrow = require_pyarrow("bulk embedding")
    try:
        with place.open(file) as stream, arrow.parquet.ParquetFile(stream) as table:
            return dict(table.metadata.metadata or {})
    except (FileNotFoundError, arrow.ArrowException):
        return None


def shard_identity(task: ShardTask) -> str:
    """Return what the footer of a shard's file says: which rows, and of which kind."""
    return f"{'shared' if task.for_others else 'rows'}:{task.shard.digest}"


def compute_shard(
    task: ShardTask, options: BulkOptions, columns: ContentColumns, base: Place
) -> tuple[bytes, list[FailedRow], ShardCounts]:
    """Return the bytes of a shard's file, the rows that failed, and counts.

    Raises InputError if the rows are not those that were planned.
    """
    rows = _read(task, options)
    skip = dict(task.skip)
    failed: dict[int, str] = {n: row.reason for n, row in rows if isinstance(row, InvalidRow)}
    failed |= {n: reason for n, reason in skip.items() if n in dict(rows)}
    wanted = [(n, row) for n, row in rows if isinstance(row, InputRow) and n not in failed]
    made = ContentTable(columns)
    if not task.for_others:
        made.borrow(task, {n: (row.title, row.text) for n, row in wanted}, base)
    made.compute([(row.title, row.text) for _, row in wanted])
    kept = [(n, row) for n, row in wanted if (row.title, row.text) in made.places]
    failed |= {
        n: made.reasons[row.title, row.text]
        for n, row in wanted
        if (row.title, row.text) in made.reasons
    }
    table = _row_table(kept, options, made)
    cut = table["truncated_from"]
    counts = ShardCounts(
        len(rows), len(kept), len(failed), len(cut) - cut.null_count, made.computed, made.tokens
    )
    names = {n: row.id for n, row in rows if isinstance(row, InputRow)}
    numbers = {n: row.number for n, row in rows}
    file = task.shard.span.file
    set_aside = [FailedRow(file, numbers[n], names.get(n), failed[n]) for n in sorted(failed)]
    return write_shard(table, task, options, counts), set_aside, counts


def _read(task: ShardTask, options: BulkOptions) -> list[tuple[int, InputRow | InvalidRow]]:
    """Return the rows of a task, numbered from 0 within the shard."""
    digest = RowsDigest()
    rows = []
    for number, (_, row) in enumerate(read_range(task.shard.span, options.fields)):
        digest.add(row)
        rows.append((number, row))
    if digest.hexdigest() != task.shard.digest:
        raise InputError(
            f"`{task.shard.span.file}` changed after it was planned: plan again, then run"
        )
    if task.for_others:
        shared = set(task.shard.shared)
        rows = [(n, row) for n, row in rows if n in shared and isinstance(row, InputRow)]
    first, last = task.only or (0, len(rows))
    return rows[first:last]


class ContentTable:
    """Columns of distinct contents: computed here, or taken from files of other shards."""

    def __init__(self, columns: ContentColumns) -> None:
        self._columns = columns
        self._tables: list[Any] = [columns.schema.empty_table()]
        self._count = 0
        self.places: dict[Content, int] = {}
        self.reasons: dict[Content, str] = {}
        self.computed = self.tokens = 0

    @property
    def table(self) -> Any:
        """Return the columns; `places` says which row is a content's."""
        return require_pyarrow("bulk embedding").concat_tables(self._tables)

    def borrow(self, task: ShardTask, contents: Mapping[int, Content], base: Place) -> None:
        """Take columns from files; what is not there, as a row that failed, is left."""
        by_source: dict[int, dict[int, Content]] = {}
        for row, source, place in task.shard.borrowed:
            if row in contents:
                by_source.setdefault(source, {})[place] = contents[row]
        for source, asked in sorted(by_source.items()):
            found = _rows_of_file(base, task.shard.sources[source], sorted(asked))
            here = [asked[row] for row in found["row"].to_pylist()]
            self._add(here, found.select(self._columns.schema.names))

    def compute(self, contents: Sequence[Content]) -> None:
        """Compute what is not there yet."""
        new = [one for one in dict.fromkeys(contents) if one not in self.places]
        for start in range(0, len(new), WINDOW):
            for part, table in self._halved(new[start : start + WINDOW]):
                self._add(part, table)
                self.computed += len(part)
                self.tokens += int(np.sum(table["token_count"].to_numpy()))

    def _halved(self, contents: list[Content]) -> Iterator[tuple[list[Content], Any]]:
        """Compute contents together; halve what fails, down to the one that does."""
        try:
            table = self._columns.table(contents)
        except (OpenGTEError, ValueError, RuntimeError, MemoryError) as error:
            if len(contents) == 1:
                self.reasons[contents[0]] = str(error) or type(error).__name__
                return
            middle = len(contents) // 2
            yield from self._halved(contents[:middle])
            yield from self._halved(contents[middle:])
        else:
            yield contents, table

    def _add(self, contents: list[Content], table: Any) -> None:
        self.places |= {one: self._count + place for place, one in enumerate(contents)}
        self._count += len(contents)
        self._tables.append(table)


def _rows_of_file(base: Place, name: str, wanted: list[int]) -> Any:
    """Return rows of a shard's file by their numbers in the shard, of the groups they are in."""
    arrow = require_pyarrow("bulk embedding")
    asked = np.array(wanted)
    with base.open(name) as stream, arrow.parquet.ParquetFile(stream) as file:
        place = file.schema_arrow.names.index("row")
        groups = []
        for number in range(file.num_row_groups):
            kept = file.metadata.row_group(number).column(place).statistics
            if kept is None or not kept.has_min_max:  # of a group without rows
                continue
            if np.searchsorted(asked, kept.min) < np.searchsorted(asked, kept.max, "right"):
                groups.append(number)
        table = file.read_row_groups(groups)
    return table.filter(np.isin(table["row"].to_numpy(), asked))


def _row_table(kept: list[tuple[int, InputRow]], options: BulkOptions, made: ContentTable) -> Any:
    """Return the columns of rows, in their order."""
    pa = require_pyarrow("bulk embedding")
    rows = [row for _, row in kept]
    hashes = [content_hash(row.title, row.text) for row in rows]
    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "row": pa.array([number for number, _ in kept], pa.int32()),
        "content_hash": pa.array(hashes, pa.binary(16)),
    }
    if "passages" in options.outputs:
        columns["title"] = pa.array([row.title for row in rows], pa.string())
        columns["text"] = pa.array([row.text for row in rows], pa.large_string())
    for name, kind in zip(options.keep, options.kept_types, strict=True):
        values = [row.kept[name] for row in rows]
        columns[f"{name}_" if name in columns else name] = _kept(values, kind)
    places = np.array([made.places[row.title, row.text] for row in rows], np.int64)
    made_columns = made.table.take(pa.array(places))
    columns |= dict(zip(made_columns.column_names, made_columns.columns, strict=True))
    return pa.table(columns)


def _kept(values: list[Any], kind: str) -> Any:
    """Return a column that is kept; strings stay, and other values become JSON among them."""
    if kind == "string":
        values = [
            value if value is None or isinstance(value, str) else json.dumps(value, default=str)
            for value in values
        ]
    return require_pyarrow("bulk embedding").array(values, kind)


class _HashingFile(io.BytesIO):
    """Bytes in memory, and the digest of all that was written."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return super().write(data)


def write_shard(table: Any, task: ShardTask, options: BulkOptions, counts: ShardCounts) -> bytes:
    """Return the bytes of a Parquet file; its footer has the digest of all that is before it."""
    arrow = require_pyarrow("bulk embedding")
    told = {
        "opengte.model": options.model,
        "opengte.fingerprint": options.fingerprint,
        "opengte.options": json.dumps(asdict(options)),
    }
    sink = _HashingFile()
    schema = table.schema.with_metadata(told)
    with arrow.parquet.ParquetWriter(
        sink,
        schema,
        compression={name: "none" if name.startswith("dense") else "zstd" for name in schema.names},
        use_dictionary=False,
    ) as writer:
        writer.write_table(table.cast(schema), row_group_size=WINDOW)
        writer.add_key_value_metadata(
            {
                SHARD.decode(): shard_identity(task),
                COUNTS.decode(): json.dumps(asdict(counts)),
                DIGEST.decode(): sink.digest.hexdigest(),
            }
        )
    return sink.getvalue()


def check_digest(stream: IO[bytes]) -> bool:
    """Return whether the bytes before the footer of a shard's file are those that were written."""
    arrow = require_pyarrow("bulk embedding")
    content = stream.read()
    length = int.from_bytes(content[-8:-4], "little")
    found = hashlib.blake2b(content[: -8 - length], digest_size=16).hexdigest()
    metadata = arrow.parquet.read_metadata(io.BytesIO(content)).metadata
    return bool(metadata[DIGEST].decode() == found)
