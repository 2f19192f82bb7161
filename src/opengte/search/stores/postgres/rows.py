"""Documents as rows of PostgreSQL, and back. Letters in shapes: d width, s spans."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from opengte.search.parse.base import Section
from opengte.search.stores import bm25
from opengte.search.stores.base import SpanVectors, SparseVector, StoredDocument, StoredWindow
from opengte.search.stores.postgres import filters, schema
from opengte.search.stores.postgres.schema import replace_nul
from opengte.types import Floats

DOCUMENT = (
    "key id source line title text length content row signature truncated sections metadata "
    "warnings indexed texts numbers"
).split()
WINDOW = (
    "document number first last tokens vector bounds scales spans sparse heaviest texts numbers"
).split()
READ_DOCUMENT = (
    "id, source, line, title, text, content, row, signature, truncated, sections, metadata, "
    "warnings, indexed"
)
READ_WINDOW = "first, last, tokens, vector_send(vector), bounds, scales, spans, sparse::text"


def document_row(one: StoredDocument, terms: Mapping[str, int]) -> list[Any]:
    """Return the values of DOCUMENT."""
    texts, numbers = filters.filter_columns(one.metadata)
    return [
        schema.document_key(one.id),
        replace_nul(one.id),
        replace_nul(one.source),
        one.line,
        replace_nul(one.title),
        replace_nul(one.text),
        sum(terms.values()),
        one.content,
        one.row,
        one.signature,
        one.truncated,
        json.dumps([[section.start, section.title] for section in one.sections]),
        json.dumps(dict(one.metadata)),
        json.dumps(one.warnings),
        one.indexed,
        texts,
        numbers,
    ]


def window_rows(one: StoredDocument) -> Iterator[list[Any]]:
    """Yield the values of WINDOW, for each window."""
    texts, numbers = filters.filter_columns(one.metadata)
    for number, window in enumerate(one.windows):
        yield [
            schema.document_key(one.id),
            number,
            window.start,
            window.end,
            window.tokens,
            vector_literal(window.vector),
            window.spans.bounds.astype("<i4").tobytes(),
            window.spans.scales.astype("<f4").tobytes(),
            window.spans.vectors.tobytes(),
            sparse_literal(window.sparse, schema.SPARSE_KEPT),
            sparse_literal(window.sparse, schema.SPARSE_INDEXED)
            if len(window.sparse) > schema.SPARSE_INDEXED
            else None,
            texts,
            numbers,
        ]


def word_rows(one: StoredDocument, terms: Mapping[str, int]) -> Iterator[list[Any]]:
    """Yield (term, key, how often, words of the document)."""
    own, length = schema.document_key(one.id), sum(terms.values())
    return ([term, own, often, length] for term, often in terms.items())


def document_terms(one: StoredDocument, language: str | None) -> Mapping[str, int]:
    """Return how often each word is in the title and text of a document."""
    return bm25.term_counts(replace_nul(f"{one.title} {one.text}"), language)


def document_from_row(row: Sequence[Any], windows: Iterable[Sequence[Any]]) -> StoredDocument:
    """Return a document of the values of READ_DOCUMENT, and of READ_WINDOW for each window."""
    id_, source, line, title, text, content, hashed, signature, truncated, *rest = row
    sections, metadata, warnings, indexed = rest
    return StoredDocument(
        id=id_,
        source=source,
        title=title,
        text=text,
        content=content,
        row=hashed,
        signature=bytes(signature),
        windows=tuple(map(_window, windows)),
        line=line,
        truncated=truncated,
        sections=tuple(Section(start, title) for start, title in json.loads(sections)),
        metadata=json.loads(metadata),
        warnings=tuple(json.loads(warnings)),
        indexed=indexed,
    )


def _window(row: Sequence[Any]) -> StoredWindow:
    first, last, tokens, vector, bounds, scales, spans, weights = row
    counted = np.frombuffer(scales, "<f4").astype(np.float32)
    values = parse_vector(vector)
    return StoredWindow(
        start=first,
        end=last,
        vector=values,
        spans=SpanVectors(
            np.frombuffer(bounds, "<i4").astype(np.int32).reshape(-1, 2),
            np.frombuffer(spans, np.int8).reshape(len(counted), len(values)),
            counted,
        ),
        tokens=tokens,
        sparse=_weights(weights),
    )


def parse_vector(sent: bytes) -> Floats:
    """Return the vector (d,) of what `vector_send` gives: two numbers of two bytes, then floats."""
    return np.frombuffer(sent, ">f4", offset=4).astype(np.float32)


def vector_literal(vector: Floats) -> str:
    """Return a vector (d,) as text that reads back as the same float32 values."""
    return "[" + ",".join(map(str, vector.astype(np.float32).tolist())) + "]"


def sparse_literal(weights: SparseVector, most: int) -> str | None:
    """Return the heaviest weights as pgvector writes them, by token from 1; None of none."""
    if not weights:
        return None
    kept = sorted(weights.items(), key=lambda one: -one[1])[:most]
    body = ",".join(f"{token + 1}:{float(weight)!r}" for token, weight in sorted(kept))
    return f"{{{body}}}/{schema.SPARSE_WIDTH}"


def _weights(text: str | None) -> SparseVector:
    if text is None:
        return {}
    pairs = (pair.split(":") for pair in text[1 : text.index("}")].split(","))
    return {int(token) - 1: float(np.float32(weight)) for token, weight in pairs}
