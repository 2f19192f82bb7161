"""Tables: JSON Lines, JSON, CSV and Parquet. A row is a document; its other fields are metadata."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from opengte.delimited import BadRow, read_delimited
from opengte.errors import InputError, MissingExtraError
from opengte.search.parse.base import (
    ParsedDocument,
    ParsedItem,
    ParseProblem,
    RowFields,
    UnreadableFileError,
    json_strings,
    scalar_fields,
)

TEXTS = ("text", "content", "body", "document", "passage", "abstract", "description")
TITLES = ("title", "subject", "name", "heading")
IDS = ("_id", "id", "doc_id", "docid", "uuid", "url")
BATCH = 256  # rows of a Parquet file held at once


def parse_json_lines(file: BinaryIO, fields: RowFields, row_bytes: int) -> Iterator[ParsedItem]:
    """Yield a document for each line."""
    for number, line in enumerate(_lines(file, row_bytes), 1):
        if line is None:
            yield ParseProblem(f"line is longer than {row_bytes:,} bytes", number)
            continue
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            yield ParseProblem(f"not JSON: {error}", number)
            continue
        yield row_to_document(value, str(number), number, fields)


def parse_json(content: bytes, fields: RowFields) -> Iterator[ParsedItem]:
    """Yield a document for each object of a list, or one with all the strings of another value."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError(f"not JSON: {error}") from error
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        for number, one in enumerate(value, 1):
            yield row_to_document(one, str(number), None, fields)
    else:
        yield row_to_document(value, "", None, fields)


def parse_csv(
    file: BinaryIO, fields: RowFields, row_bytes: int, quoted: bool = True
) -> Iterator[ParsedItem]:
    """Yield a document for each row; the first row names the columns."""
    delimiter = None if quoted else "\t"
    rows = read_delimited(
        file, "the file", quoted=quoted, delimiter=delimiter, limit=row_bytes, replace=True
    )
    try:
        for number, row in enumerate(rows, 1):
            if isinstance(row, BadRow):
                yield ParseProblem(row.reason, row.line)
                continue
            if row.found > row.expected:
                more = row.found - row.expected
                yield ParseProblem(f"has {more} fields more than the first row", row.line)
            values = {name: value for name, value in row.values.items() if value}
            yield row_to_document(values, str(number), row.line, fields)
    except InputError as error:
        raise UnreadableFileError(str(error)) from error


def parse_parquet(file: BinaryIO, fields: RowFields) -> Iterator[ParsedItem]:
    """Yield a document for each row."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "search", "Reading Parquet files") from None
    import pyarrow

    try:
        table = pq.ParquetFile(file)
        number = 0
        for batch in table.iter_batches(batch_size=BATCH):
            for row in batch.to_pylist():
                number += 1
                yield row_to_document(row, str(number), None, fields)
    except (pyarrow.ArrowException, OSError) as error:
        raise UnreadableFileError(f"not Parquet: {error}") from error


def row_to_document(value: Any, number: str, line: int | None, fields: RowFields) -> ParsedItem:
    """Return the document of a row: its text field, else all its strings."""
    if not isinstance(value, dict):
        return ParsedDocument("\n".join(json_strings(value)), number, line=line)
    texts = fields.text or _first(value, TEXTS)
    missing = [name for name in fields.text if not isinstance(value.get(name), str)]
    if missing:
        return ParseProblem(f"has no text in the field `{missing[0]}`", line)
    title = fields.title or next(iter(_first(value, TITLES)), None)
    name = fields.id or next(iter(_named(value)), None)
    rest = {key: one for key, one in value.items() if key not in (*texts, title, name)}
    if texts:
        text = "\n\n".join(str(value[field]) for field in texts)
    else:
        text = "\n".join(json_strings(rest))
    row = value.get(name) if name else None
    return ParsedDocument(
        text,
        row=number if row is None or row == "" else str(row)[:512],
        title=str(value.get(title) or "")[:200] if title else "",
        line=line,
        metadata=scalar_fields(rest) if texts else scalar_fields(_numbers(rest)),
    )


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that did not become text."""
    return {key: one for key, one in values.items() if not isinstance(one, str)} | {
        key: one for key, one in values.items() if isinstance(one, str) and len(one) <= 64
    }


def _first(value: Mapping[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    found = (name for name in names if isinstance(value.get(name), str) and value[name].strip())
    return tuple(found)[:1]


def _named(value: Mapping[str, Any]) -> Iterator[str]:
    return (name for name in IDS if isinstance(value.get(name), str | int))


def _lines(file: BinaryIO, most: int) -> Iterator[bytes | None]:
    """Yield lines, None for one that is too long, of which no more than that is ever held."""
    while line := file.readline(most + 1):
        if len(line) <= most:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(most)
        yield None
