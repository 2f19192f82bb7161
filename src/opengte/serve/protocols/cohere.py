"""Cohere, versions 1 and 2: embed and rerank."""

import math
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from opengte.errors import InputError
from opengte.serve.protocols.base import (
    Operation,
    ParsedRequest,
    ProtocolPolicy,
    RequestFailure,
    RequestInfo,
    WireProtocol,
)
from opengte.serve.protocols.encodings import (
    LazyArray,
    base64_of,
    dense_vectors,
    documents_of,
    quantise,
    require_values,
    rerank_results,
    tokens_of,
)
from opengte.serve.protocols.roles import role_of, truncation_side
from opengte.serve.protocols.schema import Count, Documents, RerankResult
from opengte.serve.types import (
    EmbedAnswer,
    EmbedRequest,
    Priority,
    ScoreAnswer,
    ScoreRequest,
    find_named,
)
from opengte.types import Truncated

CohereInput = Literal["search_document", "search_query", "classification", "clustering"]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
Urgency = Annotated[int, Meta(ge=0, le=999, description="0, the default, is the most urgent.")]


class Content(Struct, kw_only=True):
    """A part of an input."""

    type: Literal["text"]
    text: str


class EmbedInput(Struct, kw_only=True):
    """An input of several parts, which are joined by newlines."""

    content: list[Content]


class EmbedV2Body(Struct, kw_only=True):
    """`POST /v2/embed`; `instruction` is an extension."""

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
    """`POST /v1/embed`; `instruction` is an extension."""

    texts: list[str]
    model: str | None = None
    input_type: CohereInput | None = None
    embedding_types: list[EmbeddingType] | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    instruction: str | None = None


class RerankV2Body(Struct, kw_only=True):
    """`POST /v2/rerank`; `instruction` and `return_documents` are extensions."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: Count | None = None
    max_tokens_per_doc: Count | None = None
    priority: Urgency | None = None
    return_documents: bool | None = None
    instruction: str | None = None


class RerankV1Body(Struct, kw_only=True):
    """`POST /v1/rerank`; `instruction` is an extension."""

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
    """The version of the API."""

    version: str


class BilledUnits(Struct, kw_only=True):
    """Tokens embedded, or rerank searches: one for every 100 documents or part of them."""

    input_tokens: int | UnsetType = UNSET
    search_units: int | UnsetType = UNSET


class MetaBody(Struct, kw_only=True):
    """Cohere's ApiMeta; a warning says which inputs were truncated."""

    api_version: ApiVersion
    billed_units: BilledUnits
    warnings: list[str] | UnsetType = UNSET


class ByType(Struct, kw_only=True):
    """The vectors in each requested form."""

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


class RerankAnswer(Struct, kw_only=True):
    """The answer of rerank."""

    id: str
    results: list[RerankResult]
    meta: MetaBody


class ErrorBody(Struct):
    """Cohere's error."""

    message: str


def _error(failure: RequestFailure, policy: ProtocolPolicy) -> tuple[int, Any]:
    """Return the status and body of a failure."""
    return PROTOCOL.status(failure.kind), {"message": failure.message}


PROTOCOL = WireProtocol("cohere", _error, ErrorBody)

# the length that Cohere truncates documents to by default
DEFAULT_DOCUMENT_TOKENS = 4096


def _priority(priority: int | None) -> Priority | None:
    return None if priority is None else "bulk" if priority else "interactive"


def _texts(body: EmbedV1Body | EmbedV2Body) -> tuple[str, ...]:
    inputs = body.inputs if isinstance(body, EmbedV2Body) else None
    if (body.texts is None) == (inputs is None):
        raise InputError("The request has both or none of `texts` and `inputs`; expected one.")
    if inputs is None:
        require_values(body.texts or (), "texts")
        return tuple(body.texts or ())
    require_values(inputs, "inputs")
    return tuple("\n".join(part.text for part in each.content) for each in inputs)


def _parse_embed(body: EmbedV1Body | EmbedV2Body, info: RequestInfo) -> ParsedRequest:
    """Return the embedding request of a body; over-long texts lose their end by default."""
    v2 = body if isinstance(body, EmbedV2Body) else None
    if v2 is not None and v2.max_tokens is not None:
        _check_max_tokens(v2.max_tokens, body.model, info)
    request = EmbedRequest(
        model=body.model,
        inputs=_texts(body),
        role=role_of(body.input_type),
        instruction=body.instruction,
        dimensions=v2.output_dimension if v2 else None,
        truncation=truncation_side(body.truncate, True),
    )
    priority = _priority(v2.priority) if v2 else None
    return ParsedRequest((request,), role_given=body.input_type is not None, priority=priority)


def _check_max_tokens(tokens: int, model: str | None, info: RequestInfo) -> None:
    """Raise InputError if max_tokens is less than what the model reads."""
    encoders = [
        (status, status.card.max_length)
        for status in info.models()
        if status.card is not None and status.card.kind == "encoder"
    ]
    named = find_named(model, [status for status, _ in encoders]) if model else None
    lengths = [length for status, length in encoders if named is None or status is named]
    longest = max(lengths, default=0)
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
            f"{first.kept} of {first.found_text} tokens were read."
        ]
    return meta


def _formatted(form: EmbeddingType, answer: EmbedAnswer) -> LazyArray:
    vectors = (vector for vector in dense_vectors(answer) if vector is not None)
    if form == "base64":
        return LazyArray(base64_of(vector) for vector in vectors)
    return LazyArray(quantise(vector, form) for vector in vectors)


def _embed_content(
    body: EmbedV1Body | EmbedV2Body, answer: EmbedAnswer, info: RequestInfo, version: str
) -> dict[str, Any]:
    forms: list[EmbeddingType] = list(dict.fromkeys(body.embedding_types or ["float"]))
    return {
        "id": info.request_id,
        "embeddings": {form: _formatted(form, answer) for form in forms},
        "texts": _texts(body),
        "meta": _meta(version, answer.truncated, input_tokens=tokens_of(answer)),
        "response_type": "embeddings_by_type",
    }


def _embed_v2_reply(body: Any, answers: tuple[EmbedAnswer, ...], info: RequestInfo) -> Any:
    """Return the vectors by type."""
    return _embed_content(body, answers[0], info, "2")


def _embed_v1_reply(body: EmbedV1Body, answers: tuple[EmbedAnswer, ...], info: RequestInfo) -> Any:
    """Return the vectors, by type if the request names types."""
    content = _embed_content(body, answers[0], info, "1")
    if not body.embedding_types:
        content["embeddings"] = content["embeddings"]["float"]
        content["response_type"] = "embeddings_floats"
    return content


def _parse_rerank(body: RerankV1Body | RerankV2Body, info: RequestInfo) -> ParsedRequest:
    """Return the scoring request of a body."""
    require_values(body.documents, "documents")
    fields = (body.rank_fields if isinstance(body, RerankV1Body) else None) or ["text"]
    request = ScoreRequest(
        model=body.model,
        pairs=tuple((body.query, text) for text in documents_of(body.documents, fields)),
        instruction=body.instruction,
        max_document_tokens=body.max_tokens_per_doc or DEFAULT_DOCUMENT_TOKENS,
    )
    priority = _priority(body.priority) if isinstance(body, RerankV2Body) else None
    return ParsedRequest((request,), priority=priority)


def _rerank_reply(
    body: RerankV1Body | RerankV2Body, answers: tuple[ScoreAnswer, ...], info: RequestInfo
) -> Any:
    """Return the documents, best first."""
    (answer,) = answers
    documents = body.documents if body.return_documents else None
    results = rerank_results(answer, body.top_n, documents)
    version = "1" if isinstance(body, RerankV1Body) else "2"
    units = math.ceil(len(body.documents) / 100)
    meta = _meta(version, answer.truncated, search_units=units)
    return {"id": info.request_id, "results": results, "meta": meta}


_NO_IMAGES = {"images": "The models here read text."}

RERANK_V1 = Operation(
    id="cohere_rerank_v1",
    protocol=PROTOCOL,
    method="POST",
    paths=("/v1/rerank",),
    summary="Order documents by relevance (Cohere v1)",
    body=RerankV1Body,
    answer=RerankAnswer,
    parse=_parse_rerank,
    reply=_rerank_reply,
    inert=frozenset({"max_chunks_per_doc"}),
)

OPERATIONS = (
    Operation(
        id="cohere_embed_v2",
        protocol=PROTOCOL,
        method="POST",
        paths=("/v2/embed",),
        summary="Embed texts (Cohere v2)",
        body=EmbedV2Body,
        answer=EmbedAnswerByType,
        parse=_parse_embed,
        reply=_embed_v2_reply,
        refused=_NO_IMAGES,
    ),
    Operation(
        id="cohere_embed_v1",
        protocol=PROTOCOL,
        method="POST",
        paths=("/v1/embed",),
        summary="Embed texts (Cohere v1)",
        body=EmbedV1Body,
        answer=(EmbedAnswerFloats, EmbedAnswerByType),
        parse=_parse_embed,
        reply=_embed_v1_reply,
        refused=_NO_IMAGES,
    ),
    RERANK_V1,
    Operation(
        id="cohere_rerank_v2",
        protocol=PROTOCOL,
        method="POST",
        paths=("/v2/rerank",),
        summary="Order documents by relevance (Cohere v2)",
        body=RerankV2Body,
        answer=RerankAnswer,
        parse=_parse_rerank,
        reply=_rerank_reply,
    ),
)
