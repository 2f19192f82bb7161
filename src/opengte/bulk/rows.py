"""Where texts come from: arguments, lines, JSON Lines, Parquet; one row at a time.

A row that cannot be used is an item of its own, a `BadRow`, with its place and the reason: the rows
around it are not lost. Only a file that cannot be read at all raises.
"""

import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from opengte.errors import InputError, MissingExtraError

InputFormat = Literal["text", "jsonl", "parquet"]

LINE_LIMIT = 64 * 2**20  # bytes: a longer line is reported, never held in memory
FORMATS: dict[str, InputFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}


@dataclass(frozen=True)
class Row:
    """One text: its line or row, counted from 1, its id (that number, unless the input has one)."""

    number: int
    id: str | int
    text: str


@dataclass(frozen=True)
class BadRow:
    """A line or row that gives no text, and why."""

    number: int
    reason: str


@dataclass(frozen=True)
class Fields:
    """Names of the fields that hold a row's text and id; None: `id` where there is one."""

    text: str = "text"
    id: str | None = None


def from_arguments(texts: Iterable[str]) -> Iterator[Row]:
    """Return the texts of a command line as rows."""
    return (Row(number, number, text) for number, text in enumerate(texts, 1))


def from_stdin(format: InputFormat, fields: Fields) -> Iterator[Row | BadRow]:
    """Return the rows of standard input."""
    if format == "parquet":
        raise InputError("Parquet cannot be read from standard input; give its name with --input")
    return read_stream(sys.stdin.buffer, format, fields)


def from_file(path: Path, format: InputFormat, fields: Fields) -> Iterator[Row | BadRow]:
    """Return the rows of a file; a name in .gz is decompressed on the way."""
    if format == "parquet":
        return _read_parquet(path, fields)
    return _read_file(path, format, fields)


def format_of(path: Path | None) -> InputFormat:
    """Return the format that a file's name implies: plain text unless the suffix says otherwise."""
    if path is None:
        return "text"
    name = path.stem if path.suffix == ".gz" else path.name
    return FORMATS.get(Path(name).suffix.lower(), "text")


def read_stream(stream: IO[bytes], format: InputFormat, fields: Fields) -> Iterator[Row | BadRow]:
    """Return the rows of a stream of lines: each line a text, or each a JSON value."""
    for number, line in _lines(stream):
        if line is None:
            yield BadRow(number, f"is longer than {LINE_LIMIT:,} bytes")
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield BadRow(number, f"is not UTF-8 (byte {error.start + 1} of the line)")
            continue
        if format == "text":
            yield Row(number, number, text)
        elif text.strip():
            yield _json_row(number, text, fields)


def _read_file(path: Path, format: InputFormat, fields: Fields) -> Iterator[Row | BadRow]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            yield from read_stream(stream, format, fields)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"--input `{path}` is not a whole gzip file: {error}") from error


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line without its end; None in place of one that is longer than the limit."""
    number = 0
    while line := stream.readline(LINE_LIMIT + 1):
        number += 1
        if len(line) > LINE_LIMIT and not line.endswith(b"\n"):
            _skip_line(stream)
            yield number, None
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        yield number, line.removesuffix(b"\n").removesuffix(b"\r")


def _skip_line(stream: IO[bytes]) -> None:
    while (rest := stream.readline(2**20)) and not rest.endswith(b"\n"):
        pass


def _json_row(number: int, line: str, fields: Fields) -> Row | BadRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(number, f"is not JSON: {error}")
    if isinstance(value, str):
        return Row(number, number, value)
    if not isinstance(value, dict):
        return BadRow(number, f"is {_kind(value)}; expected an object or a string")
    return _row(number, value, fields)


def _row(number: int, value: dict[str, Any], fields: Fields) -> Row | BadRow:
    """Take text and id out of a record, or say what is wrong with them."""
    if fields.text not in value:
        return BadRow(number, f"has no field `{fields.text}`; choose one with --text-field")
    if fields.id is not None and fields.id not in value:
        return BadRow(number, f"has no field `{fields.id}`, named by --id-field")
    text, row_id = value[fields.text], value.get(fields.id or "id", number)
    if not isinstance(text, str):
        return BadRow(number, f"field `{fields.text}` is {_kind(text)}; expected a string")
    if reason := _unfit_id(row_id):
        return BadRow(number, f"field `{fields.id or 'id'}` {reason}")
    return Row(number, row_id, text)


def _unfit_id(value: object) -> str | None:
    """Say why a value cannot be an id, or return None."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return f"is {_kind(value)}; expected a string or an integer"
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return "has half of a surrogate pair; expected whole characters"
    return None


def _kind(value: object) -> str:
    """Name a JSON value's type as JSON does."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _read_parquet(path: Path, fields: Fields) -> Iterator[Row | BadRow]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "reading Parquet") from error
    try:
        with parquet.ParquetFile(path) as table:
            columns = _columns(path, table.schema_arrow.names, fields)
            batches = table.iter_batches(batch_size=1024, columns=columns)
            values = (value for batch in batches for value in batch.to_pylist())
            for number, value in enumerate(values, 1):
                yield _row(number, value, fields)
    except arrow.ArrowException as error:
        raise InputError(f"--input `{path}` is not a whole Parquet file: {error}") from error


def _columns(path: Path, found: list[str], fields: Fields) -> list[str]:
    """Return the columns to read; a missing one is an error that names those there are."""
    for option, name in (("--text-field", fields.text), ("--id-field", fields.id)):
        if name is not None and name not in found:
            raise InputError(
                f"{option} `{name}` is not a column of `{path}`; its columns are "
                + ", ".join(f"`{column}`" for column in found)
            )
    wanted = fields.id or "id"
    return [fields.text] + [wanted] * (wanted in found and wanted != fields.text)
