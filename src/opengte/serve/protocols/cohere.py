"""Cohere, versions 1 and 2: embed and rerank."""

import math
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from opengte.errors import InputError
from opengte.serve.protocols.base import (
    Dialect,
    Exchange,
    Failure,
    Kind,
    Operation,
    Policy,
    Work,
)
from opengte.serve.protocols.encodings import (
    Quantised,
    Rows,
    base64_of,
    dense,
    documents_of,
    echoed,
    quantise,
    ranked,
    require,
    tokens_of,
)
from opengte.serve.protocols.roles import role_of, side_of
from opengte.serve.protocols.schema import Count, Documents
from opengte.serve.types import EmbedAnswer, EmbedRequest, Priority, ScoreAnswer, ScoreRequest
from opengte.types import Truncated

CohereInput = Literal["search_document", "search_query", "classification", "clustering"]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
Urgency = Annotated[int, Meta(ge=0, le=999, description="0, the default, is the most urgent.")]


class Content(Struct, kw_only=True):
    """A part of an input."""

    type: Literal["text"]
    text: str


class EmbedInput(Struct, kw_only=True):
    """An input in parts, which are joined by newlines."""

    content: list[Content]


class EmbedV2Body(Struct, kw_only=True):
    """`POST /v2/embed`; `instruction` is ours."""

    model: str | None = None
    input_type: CohereInput | None = None
    texts: list[str] | None = None
    inputs: list[EmbedInput] | None = None
    max_tokens: Count | None = None
    output_dimension: Count | None = None
    embedding_types: list[EmbeddingType] | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    priority: Urgency | None = None
    instruction: str | None = None


class EmbedV1Body(Struct, kw_only=True):
    """`POST /v1/embed`; `instruction` is ours."""

    texts: list[str]
    model: str | None = None
    input_type: CohereInput | None = None
    embedding_types: list[EmbeddingType] | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    instruction: str | None = None


class RerankV2Body(Struct, kw_only=True):
    """`POST /v2/rerank`; `instruction` and `return_documents` are ours."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: Count | None = None
    max_tokens_per_doc: Count | None = None
    priority: Urgency | None = None
    return_documents: bool | None = None
    instruction: str | None = None


class RerankV1Body(Struct, kw_only=True):
    """`POST /v1/rerank`; `instruction` is ours."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: Count | None = None
    rank_fields: list[str] | None = None
    return_documents: bool | None = None
    max_chunks_per_doc: Count | None = None
    max_tokens_per_doc: Count | None = None
    instruction: str | None = None


class ApiVersion(Struct):
    """Of which version of the API this is an answer."""

    version: str


class BilledUnits(Struct, kw_only=True):
    """Tokens embedded, or rerank searches: one for each hundred documents begun."""

    input_tokens: int | UnsetType = UNSET
    search_units: int | UnsetType = UNSET


class MetaBody(Struct, kw_only=True):
    """Cohere's ApiMeta; a warning says which inputs were cut."""

    api_version: ApiVersion
    billed_units: BilledUnits
    warnings: list[str] | UnsetType = UNSET


class ByType(Struct, kw_only=True):
    """The vectors in each form asked for."""

    float_: list[list[float]] | UnsetType = field(name="float", default=UNSET)
    int8: list[list[int]] | UnsetType = UNSET
    uint8: list[list[int]] | UnsetType = UNSET
    binary: list[list[int]] | UnsetType = UNSET
    ubinary: list[list[int]] | UnsetType = UNSET
    base64: list[str] | UnsetType = UNSET


class EmbedAnswerByType(Struct, kw_only=True):
    """The answer of `/v2/embed`, and of `/v1/embed` with `embedding_types`."""

    id: str
    embeddings: ByType
    texts: list[str]
    meta: MetaBody
    response_type: Literal["embeddings_by_type"]


class EmbedAnswerFloats(Struct, kw_only=True):
    """The answer of `/v1/embed` without `embedding_types`."""

    id: str
    embeddings: list[list[float]]
    texts: list[str]
    meta: MetaBody
    response_type: Literal["embeddings_floats"]


class RerankResult(Struct, kw_only=True):
    """One document in the order found."""

    index: int
    relevance_score: float
    document: dict[str, Any] | UnsetType = UNSET


class RerankAnswer(Struct, kw_only=True):
    """The answer of rerank."""

    id: str
    results: list[RerankResult]
    meta: MetaBody


class ErrorBody(Struct):
    """Cohere's error."""

    message: str


STATUSES: dict[Kind, int] = {
    "malformed": 400,
    "invalid": 400,
    "too_long": 400,
    "too_large": 413,
    "media_type": 415,
    "unsupported": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "unknown_model": 404,
    "not_found": 404,
    "method": 405,
    "limited": 429,
    "overloaded": 503,
    "not_ready": 503,
    "deadline": 504,
    "engine": 500,
    "internal": 500,
}


def error(failure: Failure, policy: Policy) -> tuple[int, Any]:
    """Return the status and body of a failure."""
    return STATUSES[failure.kind], {"message": failure.message}


DIALECT = Dialect("cohere", error, ErrorBody, STATUSES)

# what Cohere cuts documents to where a request does not say
DOCUMENT_TOKENS = 4096


def _priority(priority: int | None) -> Priority | None:
    return None if priority is None else "bulk" if priority else "interactive"


def _texts(body: EmbedV1Body | EmbedV2Body) -> tuple[str, ...]:
    inputs = body.inputs if isinstance(body, EmbedV2Body) else None
    if (body.texts is None) == (inputs is None):
        raise InputError("The request has both or none of `texts` and `inputs`; expected one.")
    if inputs is None:
        require(body.texts or (), "texts")
        return tuple(body.texts or ())
    require(inputs, "inputs")
    return tuple("\n".join(part.text for part in each.content) for each in inputs)


def embed_requests(body: EmbedV1Body | EmbedV2Body, exchange: Exchange) -> Work:
    """Return the embedding request of a body; over-long texts lose their end unless it says."""
    second = body if isinstance(body, EmbedV2Body) else None
    if second is not None and second.max_tokens is not None:
        _refuse_shorter(second.max_tokens, body.model, exchange)
    request = EmbedRequest(
        model=body.model,
        inputs=_texts(body),
        role=role_of(body.input_type),
        instruction=body.instruction,
        dimensions=second.output_dimension if second else None,
        truncation=side_of(body.truncate, True),
    )
    priority = _priority(second.priority) if second else None
    return Work((request,), role_given=body.input_type is not None, priority=priority)


def _refuse_shorter(tokens: int, model: str | None, exchange: Exchange) -> None:
    """Raise InputError where max_tokens would cut what the model reads whole."""
    encoders = [
        (status, status.card.max_length)
        for status in exchange.models()
        if status.card is not None and status.card.kind == "encoder"
    ]
    asked = (length for status, length in encoders if model and status.called(model))
    longest = next(asked, max((length for _, length in encoders), default=0))
    if tokens < longest:
        raise InputError(
            f"max_tokens={tokens} is less than the {longest} tokens that the model reads; a "
            "shorter limit for one request is not supported. Leave it out, or shorten the texts."
        )


def _meta(version: str, truncated: tuple[Truncated, ...], **billed: int) -> dict[str, Any]:
    meta: dict[str, Any] = {"api_version": {"version": version}, "billed_units": billed}
    if truncated:
        first = truncated[0]
        meta["warnings"] = [
            f"{len(truncated)} inputs were truncated, the first at index {first.index}: "
            f"{first.kept} of {first.found} tokens were read."
        ]
    return meta


def _as(form: EmbeddingType, answer: EmbedAnswer) -> Rows:
    vectors = (vector for vector in dense(answer) if vector is not None)
    if form == "base64":
        return Rows(base64_of(vector) for vector in vectors)
    shape: Quantised = form
    return Rows(quantise(vector, shape) for vector in vectors)


def _embed_content(
    body: EmbedV1Body | EmbedV2Body, answer: EmbedAnswer, exchange: Exchange, version: str
) -> dict[str, Any]:
    forms: list[EmbeddingType] = list(dict.fromkeys(body.embedding_types or ["float"]))
    return {
        "id": exchange.request_id,
        "embeddings": {form: _as(form, answer) for form in forms},
        "texts": _texts(body),
        "meta": _meta(version, answer.truncated, input_tokens=tokens_of(answer)),
        "response_type": "embeddings_by_type",
    }


def embed_v2_reply(body: Any, answers: tuple[EmbedAnswer, ...], exchange: Exchange) -> Any:
    """Return the vectors by type."""
    return _embed_content(body, answers[0], exchange, "2")


def embed_v1_reply(body: EmbedV1Body, answers: tuple[EmbedAnswer, ...], exchange: Exchange) -> Any:
    """Return the vectors, by type where types were asked for."""
    content = _embed_content(body, answers[0], exchange, "1")
    if not body.embedding_types:
        content["embeddings"] = content["embeddings"]["float"]
        content["response_type"] = "embeddings_floats"
    return content


def rerank_requests(body: RerankV1Body | RerankV2Body, exchange: Exchange) -> Work:
    """Return the scoring request of a body."""
    require(body.documents, "documents")
    fields = (body.rank_fields if isinstance(body, RerankV1Body) else None) or ["text"]
    request = ScoreRequest(
        model=body.model,
        pairs=tuple((body.query, text) for text in documents_of(body.documents, fields)),
        instruction=body.instruction,
        max_document_tokens=body.max_tokens_per_doc or DOCUMENT_TOKENS,
    )
    priority = _priority(body.priority) if isinstance(body, RerankV2Body) else None
    return Work((request,), priority=priority)


def rerank_reply(
    body: RerankV1Body | RerankV2Body, answers: tuple[ScoreAnswer, ...], exchange: Exchange
) -> Any:
    """Return the documents, best first."""
    (answer,) = answers
    results: list[dict[str, Any]] = []
    for index, score in ranked(answer.scores, body.top_n):
        result: dict[str, Any] = {"index": index, "relevance_score": score}
        if body.return_documents:
            result["document"] = echoed(body.documents[index])
        results.append(result)
    version = "1" if isinstance(body, RerankV1Body) else "2"
    units = math.ceil(len(body.documents) / 100)
    meta = _meta(version, answer.truncated, search_units=units)
    return {"id": exchange.request_id, "results": results, "meta": meta}


_NO_IMAGES = {"images": "The models here read text."}

RERANK_V1 = Operation(
    id="cohere_rerank_v1",
    dialect=DIALECT,
    method="POST",
    paths=("/v1/rerank",),
    summary="Order documents by relevance (Cohere v1)",
    body=RerankV1Body,
    answer=RerankAnswer,
    requests=rerank_requests,
    reply=rerank_reply,
    inert=frozenset({"max_chunks_per_doc"}),
)

OPERATIONS = (
    Operation(
        id="cohere_embed_v2",
        dialect=DIALECT,
        method="POST",
        paths=("/v2/embed",),
        summary="Embed texts (Cohere v2)",
        body=EmbedV2Body,
        answer=EmbedAnswerByType,
        requests=embed_requests,
        reply=embed_v2_reply,
        refused=_NO_IMAGES,
    ),
    Operation(
        id="cohere_embed_v1",
        dialect=DIALECT,
        method="POST",
        paths=("/v1/embed",),
        summary="Embed texts (Cohere v1)",
        body=EmbedV1Body,
        answer=(EmbedAnswerFloats, EmbedAnswerByType),
        requests=embed_requests,
        reply=embed_v1_reply,
        refused=_NO_IMAGES,
    ),
    RERANK_V1,
    Operation(
        id="cohere_rerank_v2",
        dialect=DIALECT,
        method="POST",
        paths=("/v2/rerank",),
        summary="Order documents by relevance (Cohere v2)",
        body=RerankV2Body,
        answer=RerankAnswer,
        requests=rerank_requests,
        reply=rerank_reply,
    ),
)
