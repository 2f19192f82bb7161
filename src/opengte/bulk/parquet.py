"""Parquet: reader and writer."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opengte.bulk.types import (
    EmbeddedRows,
    FieldNames,
    InvalidRow,
    OutputFormat,
    OutputSchema,
    TextRow,
    row_from_record,
)
from opengte.errors import InputError, MissingExtraError


def require_pyarrow(purpose: str) -> Any:
    """Import pyarrow; raise MissingExtraError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose) from error
    return pyarrow


def read_parquet(path: Path, fields: FieldNames) -> Iterator[TextRow | InvalidRow]:
    """Yield the rows of a table; InputError for a broken file or a missing column."""
    arrow = require_pyarrow("reading Parquet")
    try:
        with arrow.parquet.ParquetFile(path) as table:
            fields, columns = _columns(path, table.schema_arrow, fields)
            batches = table.iter_batches(batch_size=1024, columns=columns)
            records = (record for batch in batches for record in batch.to_pylist())
            for number, record in enumerate(records, 1):
                yield row_from_record(number, record, fields)
    except arrow.ArrowException as error:
        raise InputError(f"--input `{path}` is not a whole Parquet file: {error}") from error


def _columns(path: Path, schema: Any, fields: FieldNames) -> tuple[FieldNames, list[str]]:
    """Return the fields with the column of texts, and the columns to read."""
    sample = {field.name: "a text" if "string" in str(field.type) else None for field in schema}
    try:
        fields = fields.among(schema.names, [sample])
    except InputError as error:
        raise InputError(f"`{path}`: {error}") from None
    assert fields.text is not None
    wanted = fields.id or "id"
    also = wanted in schema.names and wanted != fields.text
    return fields, [fields.text] + [wanted] * also


def _schema(schema: OutputSchema) -> Any:
    arrow = require_pyarrow("writing Parquet")
    number = arrow.float32()
    columns = {
        "dense": arrow.list_(number, schema.width),
        "sparse": arrow.map_(arrow.int32(), number),
        "tokens": arrow.list_(arrow.list_(number)),
    }
    fields = [("id", arrow.string()), ("token_count", arrow.int32())]
    fields += [("truncated_from", arrow.int32())]
    fields += [(name, columns[name]) for name in schema.outputs]
    origin = {"opengte.model": schema.model, "opengte.fingerprint": schema.fingerprint}
    return arrow.schema(fields, metadata=origin)


def _first(schema: OutputSchema) -> tuple[bytes, ...]:
    return (_schema(schema).serialize().to_pybytes(),)


def _render(block: EmbeddedRows, schema: OutputSchema) -> tuple[bytes, ...]:
    """Return a block as one message of an Arrow stream."""
    arrow, types = require_pyarrow("writing Parquet"), _schema(schema)
    vectors = block.embeddings
    cut = {record.index: record.found for record in vectors.truncated}
    columns: dict[str, Any] = {
        "id": [str(row_id) for row_id in block.ids],
        "token_count": vectors.token_counts,
        "truncated_from": [cut.get(index) for index in range(len(block.ids))],
        "dense": vectors.dense is not None and list(vectors.dense),
        "sparse": vectors.sparse and [sorted(row.items()) for row in vectors.sparse],
        "tokens": vectors.tokens and [list(rows) for rows in vectors.tokens],
    }
    arrays = [arrow.array(columns[field.name], type=field.type) for field in types]
    batch = arrow.record_batch(arrays, schema=types)
    return (batch.serialize().to_pybytes(),)


def _finish(part: Path, final: Path, schema: OutputSchema, rows: int) -> None:
    """Assemble the blocks, one row group each, in a second file, then move it into place."""
    arrow, whole = require_pyarrow("writing Parquet"), part.with_name(part.name + ".parquet")
    with part.open("rb") as file, arrow.ipc.open_stream(file) as blocks:
        with arrow.parquet.ParquetWriter(whole, blocks.schema) as writer:
            for block in blocks:
                writer.write_batch(block, row_group_size=max(1, len(block)))
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(whole, final)
    part.unlink()


FORMAT = OutputFormat(lambda path: (path,), _first, _render, _finish)
