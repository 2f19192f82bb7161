"""The routes of knowledge bases in the words of OpenAPI 3.1."""

from typing import Any

from opengte.search.retrieval.search import LEGS
from opengte.search.web.schemas import LONGEST, MOST

Json = dict[str, Any]
TAG = "Knowledge bases"

_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "number"}
_COUNT: Json = {"type": "integer", "minimum": 0}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _object(needed: tuple[str, ...] = (), **properties: Json) -> Json:
    found: Json = {"type": "object", "properties": properties}
    return found | ({"required": list(needed)} if needed else {})


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


_KB = _or_null({**_TEXT, "description": "Name of a knowledge base; the first one if left out."})
_WHERE = _or_null(
    {
        "type": "object",
        "description": 'Conditions on metadata: {"year": {"$gte": 2020}, "lang": "de"}, with $eq '
        "$ne $lt $lte $gt $gte $in $nin $starts $contains $and $or $not.",
    }
)
_ID = {**_TEXT, "minLength": 1}
_K = _or_null({"type": "integer", "minimum": 1, "maximum": MOST})
_SPAN = {**_list({"type": "integer"}), "description": "From and to, in characters."}
_PASSAGE = _object(
    start=_COUNT,
    end=_COUNT,
    text=_TEXT,
    heading=_TEXT,
    score=_or_null(_NUMBER),
    marks=_list(_SPAN),
)
_HIT = _object(
    rank=_COUNT,
    id=_TEXT,
    title=_TEXT,
    title_marks=_list(_SPAN),
    score={**_or_null(_NUMBER), "description": "Orders, and means nothing else."},
    rerank=_or_null(_NUMBER),
    legs={
        "type": "object",
        "description": "Rank and score in each way of searching; null where a score would tell of "
        "documents that this key may not see.",
        "additionalProperties": _object(rank=_COUNT, score=_or_null(_NUMBER)),
    },
    passage=_PASSAGE,
    source=_TEXT,
    line=_or_null(_COUNT),
    metadata={"type": "object"},
    duplicates=_list(_TEXT),
    confidence={**_NUMBER, "description": "Where the index is calibrated."},
)
_NEAR_HIT = _object(
    rank=_COUNT,
    id=_TEXT,
    title=_TEXT,
    similarity=_NUMBER,
    passage=_PASSAGE,
    source=_TEXT,
    line=_or_null(_COUNT),
    metadata={"type": "object"},
)
_FACET = _object(
    field=_TEXT,
    kind={"enum": ["values", "numbers", "dates"]},
    documents=_COUNT,
    values=_list(_object(value={}, documents=_COUNT)),
    others=_COUNT,
    low={},
    high={},
)
_ERROR = _object(error=_object(message=_TEXT, type=_TEXT, param={}, code=_TEXT))
_QUESTION = _object(
    ("query",),
    query={**_TEXT, "minLength": 1, "maxLength": LONGEST},
    kb=_KB,
    k=_K,
    where=_WHERE,
    legs=_or_null(_list({"enum": list(LEGS)})),
    fusion=_or_null({"enum": ["rrf", "weighted"]}),
    weights=_or_null({"type": "object", "additionalProperties": _NUMBER}),
    exact=_or_null({"type": "boolean"}),
    diversity=_or_null({**_NUMBER, "minimum": 0, "maximum": 1}),
    rerank=_or_null({"type": "boolean"}),
)
_ANSWER = _object(
    kb=_TEXT,
    query=_TEXT,
    hits=_list(_HIT),
    candidates={"type": "object", "additionalProperties": _COUNT},
    milliseconds={"type": "object", "additionalProperties": _NUMBER},
    underfilled={"type": "boolean"},
    notes=_list(_TEXT),
    confidence={**_NUMBER, "description": "That an answer is among the hits."},
    threshold={**_NUMBER, "description": "Below it, probably nothing here answers that."},
)
_DOCUMENT = _object(
    id=_TEXT,
    title=_TEXT,
    source=_TEXT,
    line=_or_null(_COUNT),
    metadata={"type": "object"},
    characters={**_COUNT, "description": "Of the whole document."},
    start={**_COUNT, "description": "Where the text that is sent begins in it."},
    text=_TEXT,
    sections=_list(_object(start=_COUNT, title=_TEXT)),
    passage=_or_null(_object(start=_COUNT, end=_COUNT, heading=_TEXT)),
    marks=_list(_SPAN),
    warnings=_list(_TEXT),
)
_LIMITED = _object(kb=_KB, where=_WHERE)
_FACETS = _object(
    documents=_COUNT,
    counted={**_COUNT, "description": "Documents whose values were counted."},
    total=_COUNT,
    facets=_list(_FACET),
)
_NUMBERS = _list(_NUMBER)
_MAP = _object(
    total=_COUNT,
    ids=_list(_TEXT),
    titles=_list(_TEXT),
    x=_NUMBERS,
    y=_NUMBERS,
    labels={**_list({"type": "integer"}), "description": "Of regions; -1 is none."},
    regions=_list(_object(name=_TEXT, documents=_COUNT, medoid=_TEXT)),
    fitting=_or_null(_list(_COUNT)),
)
_BASE = _object(name=_TEXT, documents=_COUNT, model=_TEXT, legs=_list(_TEXT))


def paths(prefix: str) -> Json:
    """Return the paths of the routes below a prefix."""
    return {
        f"{prefix}/status": {
            "get": _operation(
                "kb_status",
                "What there is to search",
                None,
                _object(version=_TEXT, knowledge_bases=_list(_BASE)),
            )
        },
        f"{prefix}/search": {"post": _operation("kb_search", "Find passages", _QUESTION, _ANSWER)},
        f"{prefix}/document": {
            "post": _operation(
                "kb_document",
                "A document, with the passage that answers a question",
                _object(
                    ("id",),
                    id=_ID,
                    kb=_KB,
                    query=_or_null({**_TEXT, "minLength": 1, "maxLength": LONGEST}),
                    at=_or_null(_COUNT),
                ),
                _DOCUMENT,
            )
        },
        f"{prefix}/near": {
            "post": _operation(
                "kb_near",
                "Documents near one",
                _object(("id",), id=_ID, kb=_KB, k=_K, where=_WHERE),
                _object(id=_TEXT, title=_TEXT, hits=_list(_NEAR_HIT)),
            )
        },
        f"{prefix}/facets": {
            "post": _operation("kb_facets", "Values of metadata, counted", _LIMITED, _FACETS)
        },
        f"{prefix}/map": {"post": _operation("kb_map", "Where documents lie", _LIMITED, _MAP)},
    }


def _operation(name: str, summary: str, body: Json | None, answer: Json) -> Json:
    errors = {
        "400": "The request cannot be used as it is.",
        "401": "The API key is missing or unknown.",
        "403": "The API key does not allow this.",
        "404": "There is no such document or knowledge base, or not for this key.",
        "429": "Too many requests; Retry-After says when to return.",
        "503": "Too many questions wait; Retry-After says when to return.",
    }
    found: Json = {
        "operationId": name,
        "summary": summary,
        "tags": [TAG],
        "responses": {
            "200": {"description": "The answer.", "content": _content(answer)},
            **{
                status: {"description": said, "content": _content(_ERROR)}
                for status, said in errors.items()
            },
        },
    }
    if body is not None:
        found["requestBody"] = {"required": True, "content": _content(body)}
    return found


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
