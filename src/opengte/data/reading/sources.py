"""Source files and folders to records, one at a time; unusable rows are items of their own.

JSON Lines (or one JSON array), CSV, TSV, plain text (one text a line), Parquet, Arrow; compressed
with gzip, bzip2, xz or Zstandard; folders of them, and folders that `datasets` saved.
"""

import bz2
import gzip
import itertools
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from opengte import delimited
from opengte.data.examples import Example, Origin, UnusableRow
from opengte.data.reading import arrow
from opengte.data.reading.column_mapping import (
    ColumnMapping,
    example_from_record,
    json_type_name,
    resolve_columns,
)
from opengte.delimited import BadRow, DelimitedRow, decoded_lines
from opengte.errors import InputError

ARRAY_LIMIT = 512 * 2**20  # bytes of a JSON file that is one array
PEEK = 64  # rows in which columns are looked for
ORIGIN, REASON = "opengte:origin", "opengte:unusable"  # of a row that `writer.write_rows` copied

Record = tuple[int, dict[str, Any] | str]  # the line or row, and its columns or what is wrong
Opener = Callable[[Path], Any]

OPENERS: dict[str, Opener] = {
    ".gz": lambda path: gzip.open(path, "rb"),
    ".bz2": lambda path: bz2.open(path, "rb"),
    ".xz": lambda path: lzma.open(path, "rb"),
    ".zst": arrow.open_zstd,
}
TABLES = (".parquet", ".arrow")


@dataclass(frozen=True)
class SourceSpec:
    """A source to prepare: its files, the meaning of their columns, and its options.

    instruction goes before queries only. in_batch_negatives None: on for pairs, off for labelled
    and scored texts. temperature None: that of the training stage.

    >>> SourceSpec("faq", (Path("faq.csv"),), instruction="Find the answer").weight
    1.0
    """

    name: str
    paths: tuple[Path, ...]
    columns: ColumnMapping = field(default_factory=ColumnMapping)
    instruction: str | None = None
    in_batch_negatives: bool | None = None
    temperature: float | None = None
    weight: float = 1.0
    origins: tuple[Path, ...] = ()  # the files of which those in `paths` are copies


def list_files(paths: tuple[Path, ...]) -> list[Path]:
    """Return the files that paths stand for, those of a folder sorted by name."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"`{path}` does not exist")
        if not path.is_dir():
            file_format(path)
            found.append(path)
            continue
        inside = (
            arrow.saved_dataset_files(path) if arrow.is_saved_dataset(path) else _readable(path)
        )
        if not inside:
            raise InputError(f"`{path}` holds no file of a known kind: {', '.join(READERS)}")
        found += inside
    return found


def file_format(path: Path) -> str:
    """Return a file's format by its suffix: `.jsonl`, `.csv`, ...; InputError if unknown."""
    name = path.with_suffix("") if path.suffix in OPENERS else path
    suffix = name.suffix.lower()
    if suffix not in READERS and suffix not in TABLES:
        raise InputError(
            f"`{path}` is of an unknown kind; expected {', '.join((*READERS, *TABLES))}, or one of "
            f"these compressed ({', '.join(OPENERS)})"
        )
    return suffix


def detect_columns(paths: tuple[Path, ...], given: ColumnMapping) -> ColumnMapping:
    """Return the column mapping of a source, from its first file; InputError if unclear."""
    first = list_files(paths)[0]
    rows = [row for _, row in itertools.islice(read_records(first), PEEK) if isinstance(row, dict)]
    rows = [row for row in rows if REASON not in row]
    names = [name for name in _names(first, rows) if name != ORIGIN]
    if not names:
        raise InputError(f"`{first}` has no rows; expected at least one")
    try:
        return resolve_columns(given, rows, names)
    except InputError as error:
        raise InputError(f"`{first}`: {error}") from None


def read_examples(
    paths: tuple[Path, ...], columns: ColumnMapping
) -> Iterator[Example | UnusableRow]:
    """Yield the examples of a source, and its unusable rows, in the order of files and rows."""
    for path in list_files(paths):
        for number, record in read_records(path, columns):
            origin = Origin(str(path), number)
            if isinstance(record, dict) and ORIGIN in record:
                origin = Origin(*record[ORIGIN])
                record = record.get(REASON, record)
            if isinstance(record, str):
                yield UnusableRow(origin, record)
            else:
                yield example_from_record(record, columns, origin)


def read_records(path: Path, columns: ColumnMapping | None = None) -> Iterator[Record]:
    """Yield the records of a file, numbered by line, or by row in formats without lines."""
    kind = file_format(path)
    if kind in TABLES:
        wanted = None if columns is None else _present(path, columns)
        yield from enumerate(arrow.read_table_rows(path, wanted), 1)
        return
    opener = OPENERS.get(path.suffix)
    try:
        with path.open("rb") if opener is None else opener(path) as stream:
            yield from READERS[kind](path, stream)
    except (OSError, zlib.error, lzma.LZMAError, EOFError) as error:
        if opener is None:
            raise
        raise InputError(f"`{path}` is not a whole compressed file: {error}") from error


def _readable(folder: Path) -> list[Path]:
    """Return the files with known formats in a folder, without hidden ones."""
    known = (*READERS, *TABLES)
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (path.with_suffix("") if path.suffix in OPENERS else path).suffix.lower() in known
    ]


def _names(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    if file_format(path) in TABLES:
        return arrow.column_names(path)
    return list(dict.fromkeys(name for row in rows for name in row))


def _present(path: Path, columns: ColumnMapping) -> list[str]:
    """Return the columns of a table to read: objects whole, for names with a dot."""
    names = arrow.column_names(path)
    wanted = [name if name in names else name.split(".")[0] for name in columns.names]
    return [name for name in dict.fromkeys(wanted) if name in names]


def _text(path: Path, stream: IO[bytes]) -> Iterator[Record]:
    for number, line, reason in decoded_lines(stream, str(path)):
        if line is None:
            yield number, reason
        elif line.strip():
            yield number, {"text": line}


def _json(path: Path, stream: IO[bytes]) -> Iterator[Record]:
    """Read a file that is one array, or JSON Lines."""
    start = stream.read(4096)
    if not start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        with _Rest(start, stream) as whole:
            yield from _json_lines(path, whole)
        return
    content = start + stream.read(ARRAY_LIMIT)
    if len(content) > ARRAY_LIMIT:
        raise InputError(f"`{path}` is an array of over {ARRAY_LIMIT:,} bytes. Use JSON Lines.")
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"`{path}` is not JSON: {error}") from error
    yield from ((number, _record(value)) for number, value in enumerate(values, 1))


class _Rest:
    """A stream whose beginning has been read already."""

    def __init__(self, start: bytes, stream: IO[bytes]) -> None:
        self.start, self.stream = start, stream

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def readline(self, limit: int) -> bytes:
        """Return the next line, or as much of it as the limit allows."""
        end = self.start.find(b"\n") + 1
        if end:
            line, self.start = self.start[:end], self.start[end:]
            return line
        line, self.start = self.start, b""
        return line + self.stream.readline(max(1, limit - len(line)))


def _json_lines(path: Path, stream: IO[bytes]) -> Iterator[Record]:
    for number, line, reason in decoded_lines(stream, str(path)):
        if line is None:
            yield number, reason
        elif line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"is not JSON: {error}"
                continue
            yield number, _record(value)


def _record(value: Any) -> dict[str, Any] | str:
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, list) and len(value) in (2, 3) and all(isinstance(v, str) for v in value):
        return dict(zip(("query", "positive", "negative"), value, strict=False))
    return value if isinstance(value, dict) else f"is {json_type_name(value)}; expected an object"


def _csv(path: Path, stream: IO[bytes]) -> Iterator[Record]:
    return _table(path, delimited.read_delimited(stream, str(path)))


def _tsv(path: Path, stream: IO[bytes]) -> Iterator[Record]:
    rows = delimited.read_delimited(stream, str(path), quoted=False, delimiter="\t")
    return _table(path, rows)


def _table(path: Path, rows: Iterator[DelimitedRow | BadRow]) -> Iterator[Record]:
    for row in rows:
        if isinstance(row, DelimitedRow):
            yield row.line, row.problem or row.values
        elif row.last:
            raise InputError(f"`{path}`:{row.line} {row.reason}")
        else:
            yield row.line, row.reason


READERS: dict[str, Callable[[Path, IO[bytes]], Iterator[Record]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _text,
}
