"""JSON Lines: reader and writer."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from opengte.bulk import text
from opengte.bulk.types import (
    EmbeddedRows,
    FieldNames,
    InvalidRow,
    OutputFormat,
    OutputSchema,
    TextRow,
    json_type,
    row_from_record,
)
from opengte.delimited import PEEK
from opengte.errors import InputError

if TYPE_CHECKING:
    from opengte.types import Floats


def read_jsonl(stream: IO[bytes], fields: FieldNames) -> Iterator[TextRow | InvalidRow]:
    """Yield each line that is not blank as a row: an object with fields, or a string.

    Without a name, and where none of the first objects has `text`, the field of the texts is the
    only one that can be, as in a table; if there is none or several, each row says so.
    """
    records = json_records(stream)
    start = list(itertools.islice(records, PEEK))
    objects = [value for _, value in start if isinstance(value, dict)]
    if objects and fields.text is None and not any("text" in each for each in objects):
        names = list(dict.fromkeys(itertools.chain(*objects)))
        with contextlib.suppress(InputError):
            fields = fields.among(names, objects)
    for number, value in itertools.chain(start, records):
        if isinstance(value, str):
            yield TextRow(number, number, value)
        elif isinstance(value, InvalidRow):
            yield value
        else:
            yield row_from_record(number, value, fields)


def json_records(stream: IO[bytes]) -> Iterator[tuple[int, dict[str, Any] | str | InvalidRow]]:
    """Yield the number and the value of each line that is not blank."""
    for number, line in text.decoded_lines(stream):
        if isinstance(line, InvalidRow):
            yield number, line
        elif line.strip():
            yield number, _value(number, line)


def _value(number: int, line: str) -> dict[str, Any] | str | InvalidRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return InvalidRow(number, f"is not JSON: {error}")
    if not isinstance(value, dict | str):
        return InvalidRow(number, f"is {json_type(value)}; expected an object or a string")
    return value


def render_jsonl(block: EmbeddedRows, schema: OutputSchema) -> bytes:
    """Return the rows of a block as JSON Lines; their numbers parse to the same float32."""
    return b"".join(_line(block, index, schema) for index in range(len(block.ids)))


def _line(block: EmbeddedRows, index: int, schema: OutputSchema) -> bytes:
    vectors, parts = block.embeddings, [json.dumps(block.metadata(index))[:-1]]
    if "dense" in schema.outputs and vectors.dense is not None:
        parts.append(f'"dense": {_numbers(vectors.dense[index])}')
    if "sparse" in schema.outputs and vectors.sparse is not None:
        weights = sorted(vectors.sparse[index].items())
        pairs = ", ".join(f'"{token}": {weight:.9g}' for token, weight in weights)
        parts.append(f'"sparse": {{{pairs}}}')
    if "tokens" in schema.outputs and vectors.tokens is not None:
        rows = ", ".join(map(_numbers, vectors.tokens[index]))
        parts.append(f'"tokens": [{rows}]')
    return (", ".join(parts) + "}\n").encode()


def _numbers(vector: "Floats") -> str:
    """Write float32 with nine digits, the fewest that always parse to the same number."""
    return "[" + ", ".join(["%.9g"] * len(vector)) % tuple(vector.tolist()) + "]"


def _finish(part: Path, final: Path, schema: OutputSchema, rows: int) -> None:
    os.replace(part, final)


FORMAT = OutputFormat(
    files=lambda path: (path,),
    first=lambda schema: (b"",),
    render=lambda block, schema: (render_jsonl(block, schema),),
    finish=_finish,
)
