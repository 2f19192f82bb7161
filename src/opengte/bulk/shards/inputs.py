"""Inputs of a plan: the files of a folder, and the rows of a range of one.

A range begins at a byte of JSON Lines and of tables, and at a row of Parquet and Lance, so that a
worker reads its own rows only.
"""

import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from opengte.bulk.jsonl import json_records
from opengte.bulk.parquet import require_pyarrow
from opengte.bulk.shards.places import filesystem, open_file
from opengte.bulk.types import FieldNames, InvalidRow, TextRow, row_from_record
from opengte.delimited import BadRow, read_delimited
from opengte.errors import InputError, MissingExtraError

SUFFIXES = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".lance": "lance",
}
BATCH = 1024  # rows of Parquet and Lance that are read at once


@dataclass(frozen=True)
class InputFields:
    """The fields that are read of a row; keep are columns that the output has too."""

    text: str
    id: str | None = None
    title: str | None = None
    keep: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the fields that a row must have, or may have."""
        names = (self.text, self.id or "id", self.title, *self.keep)
        return tuple(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True)
class InputRow:
    """A row: its number in the file, from 1, its id, its content and the columns that are kept."""

    number: int
    id: str
    text: str
    title: str = ""
    kept: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RowRange:
    """Rows of one file: `rows` of them from byte or row `start`, the first on line `line`.

    `header` is how many bytes the header of a table has, on `header_lines` lines.
    """

    file: str
    start: int = 0
    line: int = 1
    header: int = 0
    header_lines: int = 0
    rows: int | None = None


class RowsDigest:
    """The digest of rows in their order: what a shard is known by."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, row: InputRow | InvalidRow) -> None:
        """Add a row."""
        if isinstance(row, InvalidRow):
            values = [row.number, row.reason]
        else:
            values = [row.number, row.id, row.title, row.text, row.kept]
        self._hash.update(json.dumps(values, default=str).encode())

    def hexdigest(self) -> str:
        """Return the digest of the rows so far."""
        return self._hash.hexdigest()


def list_inputs(place: str) -> list[str]:
    """Return the URLs of the inputs in a folder, of a file, or of a pattern, sorted.

    Raises InputError if there is none.
    """
    fs, path = filesystem(place)
    if input_kind(path) == "lance" or fs.isfile(path):
        found = [path]
    elif any(mark in path for mark in "*?["):
        found = [str(name) for name in fs.glob(path)]
    else:
        found = [str(name) for name in fs.find(path)]
    whole = {_dataset(name) for name in found}
    scheme = f"{place.partition('://')[0]}://" if "://" in place else ""
    inputs = sorted(f"{scheme}{name}" for name in whole if input_kind(name))
    if not inputs:
        raise InputError(f"`{place}` has no input: expected {', '.join(SUFFIXES)} files")
    return inputs


def _dataset(path: str) -> str:
    """Return the dataset of Lance that a file belongs to, or the file."""
    head, mark, _ = f"{path}/".partition(".lance/")
    return head + ".lance" if mark else path


def input_kind(path: str) -> str | None:
    """Return the format that a name implies, None for one that is not read.

    >>> input_kind("a/rows.jsonl.gz"), input_kind("b/readme.md")
    ('jsonl', None)
    """
    return SUFFIXES.get(os.path.splitext(path.removesuffix(".gz"))[1].lower())


def row_fields(
    files: Sequence[str],
    text: str | None,
    id: str | None,
    title: str | None,
    keep: tuple[str, ...],
) -> InputFields:
    """Return the fields with that of the text chosen among the columns of the first file.

    Raises InputError for a column that the first file does not have.
    """
    first = files[0]
    columns, sample = _columns(first)
    if columns:
        try:
            text = FieldNames(text, id).among(columns, sample).text
        except InputError as error:
            raise InputError(f"`{first}`: {error}") from None
    for option, name in (("--title-field", title), *(("--keep", name) for name in keep)):
        if columns and name is not None and name not in columns:
            raise InputError(
                f"{option} `{name}` is not a column of `{first}`; the columns are "
                + ", ".join(f"`{column}`" for column in columns)
            )
    return InputFields(text or "text", id, title, keep)


def _columns(file: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns of a table with some rows of it; nothing for JSON Lines."""
    kind = input_kind(file)
    if kind == "jsonl":
        return [], []
    if kind in ("csv", "tsv"):
        fs, path = filesystem(file)
        with open_file(fs, path) as stream:
            rows = itertools.islice(_delimited(stream, kind, file), 64)
            found = [row.values for row in rows if not isinstance(row, BadRow)]
        return (list(found[0]) if found else []), found
    if kind == "parquet":
        with _opened_parquet(file) as table:
            schema = table.schema_arrow
    else:
        schema = _open_lance(file).schema
    sample = {one.name: "a text" if "string" in str(one.type) else None for one in schema}
    return list(schema.names), [sample]


def read_range(span: RowRange, fields: InputFields) -> Iterator[tuple[int, InputRow | InvalidRow]]:
    """Yield where each row of a range begins, and the row."""
    kind = input_kind(span.file)
    if kind in ("parquet", "lance"):
        rows = _table_rows(span, fields, kind)
    else:
        rows = _stream_rows(span, fields, kind or "")
    yield from itertools.islice(rows, span.rows)


def _table_rows(
    span: RowRange, fields: InputFields, kind: str
) -> Iterator[tuple[int, InputRow | InvalidRow]]:
    batches = _parquet_batches if kind == "parquet" else _lance_batches
    place = span.start
    for batch in batches(span.file, span.start, span.rows, fields):
        for record in batch.to_pylist():
            yield place, _row(span.file, place + 1, record, fields)
            place += 1


@contextmanager
def _opened_parquet(file: str) -> Iterator[Any]:
    arrow = require_pyarrow("reading Parquet")
    fs, path = filesystem(file)
    with open_file(fs, path) as stream:
        try:
            yield arrow.parquet.ParquetFile(stream)
        except arrow.ArrowException as error:
            raise InputError(f"`{file}` is not a whole Parquet file: {error}") from error


def _parquet_batches(file: str, start: int, rows: int | None, fields: InputFields) -> Iterator[Any]:
    """Yield the rows from one on, of the row groups that have them."""
    with _opened_parquet(file) as table:
        names = [name for name in fields.columns if name in table.schema_arrow.names]
        first, groups = 0, []
        for number in range(table.num_row_groups):
            count = table.metadata.row_group(number).num_rows
            if first + count > start and (rows is None or first < start + rows):
                groups.append((number, first))
            first += count
        skip = start - groups[0][1] if groups else 0
        wanted = [number for number, _ in groups]
        for batch in table.iter_batches(batch_size=BATCH, row_groups=wanted, columns=names):
            if skip < len(batch):
                yield batch.slice(skip)
            skip = max(0, skip - len(batch))


def _open_lance(file: str) -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise MissingExtraError("lancedb", "search", "reading Lance") from error
    folder, _, name = file.rpartition("/")
    try:
        return lancedb.connect(folder).open_table(name.removesuffix(".lance"))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"`{file}` is not a Lance dataset: {error}") from error


def _lance_batches(file: str, start: int, rows: int | None, fields: InputFields) -> Iterator[Any]:
    table = _open_lance(file)
    names = [name for name in fields.columns if name in table.schema.names]
    search = table.search().select(names).offset(start).limit(rows)
    yield from search.to_batches(BATCH)


class LineStream:
    """A stream that is read by lines, and where the lines begin that were read last."""

    def __init__(self, stream: IO[bytes], span: RowRange) -> None:
        self._stream = stream
        self._header = span.header
        self._place = 0
        self._start = span.start
        self._number = 0
        self._whole = True
        self._places: deque[tuple[int, int]] = deque()  # of lines: number, place

    def readline(self, limit: int = -1) -> bytes:
        """Return the next line: of the header first, then from the start of the range."""
        if self._place == self._header and self._start > self._place:
            self._place = self._stream.seek(self._start)
        if self._whole:
            self._number += 1
            self._places.append((self._number, self._place))
        line = self._stream.readline(limit)
        self._place += len(line)
        self._whole = line.endswith(b"\n")
        return line

    def place_of(self, number: int) -> int:
        """Return where a line begins, and forget those before it."""
        while self._places[0][0] < number:
            self._places.popleft()
        return self._places[0][1]


def _stream_rows(
    span: RowRange, fields: InputFields, kind: str
) -> Iterator[tuple[int, InputRow | InvalidRow]]:
    fs, path = filesystem(span.file)
    shift = span.line - 1 - span.header_lines
    with open_file(fs, path) as stream:
        lines = LineStream(stream, span)
        for number, value in _records(lines, kind, span.file, fields):  # type: ignore[arg-type]
            place = lines.place_of(number)
            if isinstance(value, InvalidRow):
                yield place, InvalidRow(number + shift, value.reason)
            else:
                yield place, _row(span.file, number + shift, value, fields)


def _delimited(stream: IO[bytes], kind: str, file: str) -> Iterator[Any]:
    if kind == "tsv":
        return read_delimited(stream, file, quoted=False, delimiter="\t")
    return read_delimited(stream, file)


def _records(
    stream: IO[bytes], kind: str, file: str, fields: InputFields
) -> Iterator[tuple[int, dict[str, Any] | InvalidRow]]:
    if kind == "jsonl":
        for number, value in json_records(stream):
            yield number, {fields.text: value} if isinstance(value, str) else value
        return
    for row in _delimited(stream, kind, file):
        if isinstance(row, BadRow):
            if row.last:
                raise InputError(f"`{file}`: line {row.line} {row.reason}")
            yield row.line, InvalidRow(row.line, row.reason)
        elif row.problem:
            yield row.line, InvalidRow(row.line, row.problem)
        else:
            yield row.line, row.values


def _row(
    file: str, number: int, record: dict[str, Any], fields: InputFields
) -> InputRow | InvalidRow:
    found = row_from_record(number, record, FieldNames(fields.text, fields.id))
    if not isinstance(found, TextRow):
        return found
    title = record.get(fields.title) if fields.title else None
    if title is not None and not isinstance(title, str):
        return InvalidRow(number, f"field `{fields.title}` is not a string")
    own = fields.id or ("id" if "id" in record else None)
    name = str(found.id) if own else f"{os.path.basename(file)}#{number}"
    return InputRow(number, name, found.text, title or "", {k: record.get(k) for k in fields.keep})
