"""Documents as Arrow rows: a row is a window, and the first row of a document has its text too.

The same rows are what the Parquet export holds.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from opengte.embedding_ops import l2_normalise
from opengte.engine.maxsim import TokenVectors
from opengte.errors import MissingExtraError
from opengte.search.parse.base import Section
from opengte.search.segmentation import indexed_text
from opengte.search.stores.base import SpanVectors, SparseVector, StoredDocument, StoredWindow
from opengte.types import Floats

try:
    import pyarrow as pa
except ImportError:
    raise MissingExtraError("pyarrow", "search", "A knowledge base") from None


def arrow_schema(dimension: int, short: int | None, *, late: bool = False) -> Any:
    """Return the columns of a row; short is the size of the vectors of a first pass.

    late: with columns for the token vectors of late interaction.
    """
    fields = [
        pa.field("id", pa.string()),
        pa.field("window", pa.int32()),
        pa.field("source", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("title", pa.string()),
        pa.field("indexed_text", pa.large_string()),  # title, terms, text; of the first window only
        pa.field("text_from", pa.int32()),  # where the text begins in it
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
        pa.field("tokens", pa.int32()),
        pa.field("vector", pa.list_(pa.float32(), dimension)),
        pa.field("span_bounds", pa.list_(pa.int32())),
        pa.field("span_scales", pa.list_(pa.float32())),
        pa.field("span_vectors", pa.binary()),
        pa.field("sparse_ids", pa.list_(pa.uint32())),
        pa.field("sparse_weights", pa.list_(pa.float32())),
        pa.field("metadata", pa.json_()),
        pa.field("sections", pa.string()),
        pa.field("warnings", pa.list_(pa.string())),
        pa.field("truncated", pa.bool_()),
        pa.field("content", pa.string()),
        pa.field("row", pa.string()),
        pa.field("signature", pa.binary()),
        pa.field("indexed", pa.float64()),
    ]
    if short:
        fields.append(pa.field("short", pa.list_(pa.float32(), short)))
    if late:
        fields.append(pa.field("late_starts", pa.list_(pa.int64())))  # of each span's tokens
        fields.append(pa.field("late_scales", pa.binary()))  # float32
        fields.append(pa.field("late_vectors", pa.large_binary()))  # int8
    return pa.schema(fields)


def to_table(documents: Sequence[StoredDocument], columns: Any) -> Any:
    """Return the rows of documents."""
    rows = [row for document in documents for row in _rows(document)]
    data = {
        field.name: [row[field.name] for row in rows]
        for field in columns
        if field.name not in ("vector", "short")
    }
    vectors = np.array([row["vector"] for row in rows], dtype=np.float32)
    arrays = []
    for field in columns:
        if field.name == "vector":
            arrays.append(_matrix(vectors, field.type.list_size))
        elif field.name == "short":
            arrays.append(
                _matrix(truncate_dimensions(vectors, field.type.list_size), field.type.list_size)
            )
        elif field.name == "metadata":
            storage = pa.array(data["metadata"], pa.string())
            arrays.append(pa.ExtensionArray.from_storage(field.type, storage))
        else:
            arrays.append(pa.array(data[field.name], field.type))
    return pa.Table.from_arrays(arrays, schema=columns)


def _matrix(values: Floats, width: int) -> Any:
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), width)


def truncate_dimensions(vectors: Floats, dimensions: int) -> Floats:
    """Return the first dimensions of vectors (..., d), of length one."""
    return l2_normalise(np.ascontiguousarray(vectors[..., :dimensions]))


def _rows(document: StoredDocument) -> Iterator[dict[str, Any]]:
    shared = {
        "id": document.id,
        "source": document.source,
        "line": document.line,
        "title": document.title,
        "metadata": json.dumps(dict(document.metadata)),
        "truncated": document.truncated,
        "content": document.content,
        "row": document.row,
        "signature": document.signature,
        "indexed": document.indexed,
    }
    indexed, start = indexed_text(document.title, document.text)
    first = {
        "indexed_text": indexed,
        "text_from": start,
        "sections": json.dumps([[one.start, one.title] for one in document.sections]),
        "warnings": list(document.warnings),
    }
    for number, window in enumerate(document.windows):
        own = first if number == 0 else dict.fromkeys(first)
        yield {**shared, **own, "window": number, **_window(window)}


def _window(window: StoredWindow) -> dict[str, Any]:
    return {
        "start": window.start,
        "end": window.end,
        "tokens": window.tokens,
        "vector": window.vector,
        "span_bounds": window.spans.bounds.reshape(-1).tolist(),
        "span_scales": window.spans.scales.tolist(),
        "span_vectors": window.spans.vectors.tobytes(),
        "sparse_ids": list(window.sparse),
        "sparse_weights": list(window.sparse.values()),
        **_late_columns(window.late),
    }


def _late_columns(late: TokenVectors | None) -> dict[str, Any]:
    if late is None or late.scales is None:
        return dict.fromkeys(LATE_COLUMNS)
    return {
        "late_starts": late.starts.tolist(),
        "late_scales": late.scales.tobytes(),
        "late_vectors": late.values.tobytes(),
    }


LATE_COLUMNS = "late_starts late_scales late_vectors".split()


DISPLAY_COLUMNS = (  # columns that an answer is made of
    "id window source line title indexed_text text_from start end vector span_bounds span_scales "
    "span_vectors metadata sections signature"
).split()
INGEST_COLUMNS = "tokens sparse_ids sparse_weights warnings truncated content row indexed".split()


def table_rows(table: Any) -> list[dict[str, Any]]:
    """Return the rows of a table, their vectors as rows of one array."""
    rows: list[dict[str, Any]] = table.drop_columns(["vector"]).to_pylist()
    for row, vector in zip(rows, table_vectors(table), strict=True):
        row["vector"] = vector
    return rows


def table_vectors(table: Any) -> Floats:
    """Return the vectors (n, d) of the rows of a table."""
    column = table["vector"].combine_chunks()
    found: Floats = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return found


def documents_from_rows(rows: Iterable[dict[str, Any]]) -> Iterator[StoredDocument]:
    """Yield the documents of rows, in which those of one document are not mixed with others."""
    held: list[dict[str, Any]] = []
    for row in rows:
        if held and held[0]["id"] != row["id"]:
            yield _document(held)
            held = []
        held.append(row)
    if held:
        yield _document(held)


def _document(rows: list[dict[str, Any]]) -> StoredDocument:
    """Return the document of its rows, which may be without the columns that indexing needs."""
    rows = sorted(rows, key=lambda row: int(row["window"]))
    first = rows[0]
    return StoredDocument(
        id=first["id"],
        source=first["source"],
        title=first["title"],
        text=first["indexed_text"][first["text_from"] :],
        content=first.get("content", ""),
        row=first.get("row", ""),
        signature=first["signature"],
        windows=tuple(_stored_window(row) for row in rows),
        line=first["line"],
        truncated=first.get("truncated", False),
        sections=tuple(Section(start, title) for start, title in json.loads(first["sections"])),
        metadata=json.loads(first["metadata"]),
        warnings=tuple(first.get("warnings", ())),
        indexed=first.get("indexed", 0.0),
    )


def _stored_window(row: dict[str, Any]) -> StoredWindow:
    vector = np.asarray(row["vector"], dtype=np.float32)
    count = len(row["span_scales"])
    return StoredWindow(
        start=row["start"],
        end=row["end"],
        vector=vector,
        spans=SpanVectors(
            np.array(row["span_bounds"], dtype=np.int32).reshape(-1, 2),
            np.frombuffer(row["span_vectors"], dtype=np.int8).reshape(count, len(vector)),
            np.array(row["span_scales"], dtype=np.float32),
        ),
        tokens=row.get("tokens", 0),
        sparse=sparse_weights(row),
        late=_late(row),
    )


def _late(row: dict[str, Any]) -> TokenVectors | None:
    starts = row.get("late_starts")
    if starts is None:
        return None
    values = np.frombuffer(row["late_vectors"], np.int8)
    total = int(starts[-1])
    return TokenVectors(
        values.reshape(total, -1) if total else values.reshape(0, 1),
        np.array(starts, np.int64),
        np.frombuffer(row["late_scales"], np.float32),
    )


def sparse_weights(row: dict[str, Any]) -> SparseVector:
    """Return the learned sparse weights of a row."""
    return dict(zip(row.get("sparse_ids", ()), row.get("sparse_weights", ()), strict=True))
