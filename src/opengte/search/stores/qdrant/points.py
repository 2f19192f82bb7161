"""Documents as points of Qdrant, a window each, and back. The schema is that of every engine."""

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opengte.embedding_ops import l2_normalise
from opengte.search.parse.base import Section
from opengte.search.segmentation import indexed_text
from opengte.search.stores.base import SpanVectors, SparseVector, StoredDocument, StoredWindow
from opengte.search.stores.qdrant.filters import filter_fields
from opengte.types import Floats

WINDOW, SHORT, LEARNED, WORDS = "window_vector", "short_vector", "learned", "words"


@dataclass(frozen=True)
class QdrantPoint:
    """What Qdrant keeps: vectors by name, a list or {token: weight}, and a payload."""

    id: str
    vectors: Mapping[str, Any] = field(default_factory=dict)
    payload: Mapping[str, Any] = field(default_factory=dict)


def point_id(*parts: object) -> str:
    """Return the id of a point, the same ones for the same parts."""
    text = "\0".join(map(str, parts))
    return str(uuid.UUID(bytes=hashlib.sha256(text.encode("utf-8", "replace")).digest()[:16]))


def document_points(one: StoredDocument, commit: str, short: int | None) -> Iterator[QdrantPoint]:
    """Yield the points of a document; the first has its text too."""
    indexed, start = indexed_text(one.title, one.text)
    shared = {"id": one.id, "commit": commit, **filter_fields(one.metadata)}
    first = {
        WORDS: indexed,
        "text_from": start,
        "source": one.source,
        "line": one.line,
        "title": one.title,
        "content": one.content,
        "row": one.row,
        "signature": _packed(one.signature),
        "truncated": one.truncated,
        "sections": json.dumps([[section.start, section.title] for section in one.sections]),
        "metadata": json.dumps(dict(one.metadata)),
        "warnings": list(one.warnings),
        "indexed": one.indexed,
    }
    for number, window in enumerate(one.windows):
        payload = {**shared, **(first if number == 0 else {}), "window": number, **_window(window)}
        yield QdrantPoint(point_id(one.id, number), _vectors(window, short), payload)


def _window(window: StoredWindow) -> dict[str, Any]:
    return {
        "start": window.start,
        "end": window.end,
        "tokens": window.tokens,
        "span_bounds": _packed(window.spans.bounds.astype("<i4").tobytes()),
        "span_scales": _packed(window.spans.scales.astype("<f4").tobytes()),
        "span_vectors": _packed(window.spans.vectors.tobytes()),
    }


def _vectors(window: StoredWindow, short: int | None) -> dict[str, Any]:
    made: dict[str, Any] = {WINDOW: window.vector.astype(np.float32).tolist()}
    if short:
        made[SHORT] = truncate_dimensions(window.vector, short).tolist()
    if window.sparse:
        made[LEARNED] = dict(window.sparse)
    return made


def truncate_dimensions(vector: Floats, dimensions: int) -> Floats:
    """Return the first dimensions of a vector (d,), of length one."""
    cut: Floats = l2_normalise(np.ascontiguousarray(vector[None, :dimensions], dtype=np.float32))[0]
    return cut


def document_from_points(found: Sequence[QdrantPoint]) -> StoredDocument | None:
    """Return the document of its points; those of an earlier commit are left out."""
    numbered = {int(one.payload["window"]): one for one in found}
    if 0 not in numbered:
        return None
    first = numbered[0].payload
    windows = [
        _stored_window(one)
        for _, one in sorted(numbered.items())
        if one.payload["commit"] == first["commit"]
    ]
    return StoredDocument(
        id=first["id"],
        source=first["source"],
        title=first["title"],
        text=first[WORDS][first["text_from"] :],
        content=first["content"],
        row=first["row"],
        signature=base64.b64decode(first["signature"]),
        windows=tuple(windows),
        line=first.get("line"),
        truncated=first["truncated"],
        sections=tuple(Section(start, title) for start, title in json.loads(first["sections"])),
        metadata=json.loads(first["metadata"]),
        warnings=tuple(first["warnings"]),
        indexed=float(first["indexed"]),
    )


def _stored_window(one: QdrantPoint) -> StoredWindow:
    payload = one.payload
    vector = np.asarray(one.vectors[WINDOW], dtype=np.float32)
    scales = np.frombuffer(base64.b64decode(payload["span_scales"]), "<f4").astype(np.float32)
    bounds = np.frombuffer(base64.b64decode(payload["span_bounds"]), "<i4").astype(np.int32)
    vectors = np.frombuffer(base64.b64decode(payload["span_vectors"]), np.int8)
    learned: SparseVector = one.vectors.get(LEARNED, {})
    return StoredWindow(
        start=payload["start"],
        end=payload["end"],
        vector=vector,
        spans=SpanVectors(bounds.reshape(-1, 2), vectors.reshape(len(scales), len(vector)), scales),
        tokens=payload["tokens"],
        sparse=learned,
    )


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode()
