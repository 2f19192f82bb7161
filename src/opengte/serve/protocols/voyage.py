"""Voyage: embeddings, contextualized embeddings and rerank under `/v1`."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Struct, UnsetType

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
    Quantised,
    base64_of,
    dense_vectors,
    input_report,
    quantise,
    ranked,
    require_values,
    texts_of,
    tokens_of,
)
from opengte.serve.protocols.roles import role_of, truncation_side
from opengte.serve.protocols.schema import Count, InputReport, Texts, exact_schema
from opengte.serve.types import EmbedAnswer, EmbedRequest, ScoreAnswer, ScoreRequest
from opengte.types import Floats

Side = Literal["query", "document"]
_TEXT = {"type": "string"}


class EmbeddingsBody(Struct, kw_only=True):
    """Voyage's embeddings; `instruction` and `details` are extensions."""

    input: Texts
    model: str | None = None
    input_type: Side | None = None
    truncation: bool | None = None
    output_dimension: Count | None = None
    output_dtype: Quantised | None = None
    encoding_format: Literal["base64"] | None = None
    instruction: str | None = None
    details: bool | None = None


class ContextualizedBody(Struct, kw_only=True):
    """Documents, each a list of its chunks in order; each chunk is embedded in its context."""

    inputs: Annotated[
        list[list[str]],
        exact_schema(
            "Documents, each a list of chunks.",
            type="array",
            minItems=1,
            items={"type": "array", "minItems": 1, "items": _TEXT},
        ),
    ]
    model: str | None = None
    input_type: Side | None = None
    output_dimension: Count | None = None
    output_dtype: Quantised | None = None
    encoding_format: Literal["base64"] | None = None


class RerankBody(Struct, kw_only=True):
    """Voyage's rerank; `instruction` and `details` are extensions."""

    query: str
    documents: Annotated[list[str], exact_schema("Texts.", type="array", minItems=1, items=_TEXT)]
    model: str | None = None
    top_k: Count | None = None
    truncation: bool | None = None
    return_documents: bool | None = None
    instruction: str | None = None
    details: bool | None = None


class Embedding(Struct, kw_only=True):
    """One vector, as numbers or as bytes in base64."""

    object: Literal["embedding"]
    embedding: list[float] | str
    index: int


class Usage(Struct):
    """Tokens that were computed, after truncation."""

    total_tokens: int


class EmbeddingList(Struct, kw_only=True):
    """Vectors in input order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    inputs: list[InputReport] | UnsetType = UNSET


class DocumentEmbeddings(Struct, kw_only=True):
    """The vectors of one document's chunks."""

    object: Literal["list"]
    data: list[Embedding]
    index: int


class ContextualizedList(Struct, kw_only=True):
    """Documents in input order."""

    object: Literal["list"]
    data: list[DocumentEmbeddings]
    model: str
    usage: Usage


class RerankResult(Struct, kw_only=True):
    """One document, in the order of relevance."""

    index: int
    relevance_score: float
    document: str | UnsetType = UNSET


class RerankAnswer(Struct, kw_only=True):
    """The documents, best first."""

    object: Literal["list"]
    data: list[RerankResult]
    model: str
    usage: Usage
    inputs: list[InputReport] | UnsetType = UNSET


class ErrorBody(Struct):
    """Voyage's error."""

    detail: str


def _error(failure: RequestFailure, policy: ProtocolPolicy) -> tuple[int, Any]:
    """Return the status and body of a failure."""
    return PROTOCOL.status(failure.kind), {"detail": failure.message}


PROTOCOL = WireProtocol("voyage", _error, ErrorBody)


def _parse_embeddings(body: EmbeddingsBody, info: RequestInfo) -> ParsedRequest:
    """Return the embedding request of a body; over-long texts are truncated by default."""
    require_values(body.input, "input")
    request = EmbedRequest(
        model=body.model,
        inputs=texts_of(body.input),
        role=role_of(body.input_type),
        instruction=body.instruction,
        dimensions=body.output_dimension,
        truncation=truncation_side(body.truncation, True),
    )
    return ParsedRequest((request,), role_given=body.input_type is not None)


def _vectors(answer: EmbedAnswer, body: EmbeddingsBody | ContextualizedBody) -> LazyArray:
    def form(vector: Floats) -> Any:
        values = quantise(vector, body.output_dtype or "float")
        return base64_of(values) if body.encoding_format else values

    return LazyArray(
        {"object": "embedding", "embedding": form(vector), "index": index}
        for index, vector in enumerate(dense_vectors(answer))
        if vector is not None
    )


def _embeddings_reply(
    body: EmbeddingsBody, answers: tuple[EmbedAnswer, ...], info: RequestInfo
) -> Any:
    """Return the list of vectors."""
    (answer,) = answers
    return {
        "object": "list",
        "data": _vectors(answer, body),
        "model": answer.model.name,
        "usage": {"total_tokens": tokens_of(answer)},
        **input_report(answer, body.details is True),
    }


def _parse_contextualized(body: ContextualizedBody, info: RequestInfo) -> ParsedRequest:
    """Return one late-chunking request for each document; a query is a document of one chunk."""
    require_values(body.inputs, "inputs")
    for index, chunks in enumerate(body.inputs):
        require_values(chunks, f"inputs[{index}]")
        if body.input_type == "query" and len(chunks) > 1:
            raise InputError(
                f"inputs[{index}] has {len(chunks)} texts; expected 1 with input_type=query."
            )
    requests = tuple(
        EmbedRequest(
            model=body.model,
            inputs=tuple(chunks),
            role=role_of(body.input_type),
            dimensions=body.output_dimension,
            truncation="error",
            late_chunking=len(chunks) > 1,
        )
        for chunks in body.inputs
    )
    return ParsedRequest(requests, role_given=body.input_type is not None)


def _contextualized_reply(
    body: ContextualizedBody, answers: tuple[EmbedAnswer, ...], info: RequestInfo
) -> Any:
    """Return the vectors of each document's chunks."""
    return {
        "object": "list",
        "data": LazyArray(
            {"object": "list", "data": _vectors(answer, body), "index": index}
            for index, answer in enumerate(answers)
        ),
        "model": answers[0].model.name,
        "usage": {"total_tokens": sum(tokens_of(answer) for answer in answers)},
    }


def _parse_rerank(body: RerankBody, info: RequestInfo) -> ParsedRequest:
    """Return the scoring request of a body."""
    require_values(body.documents, "documents")
    request = ScoreRequest(
        model=body.model,
        pairs=tuple((body.query, text) for text in body.documents),
        instruction=body.instruction,
        truncation=truncation_side(body.truncation, True),
    )
    return ParsedRequest((request,))


def _rerank_reply(body: RerankBody, answers: tuple[ScoreAnswer, ...], info: RequestInfo) -> Any:
    """Return the documents, best first."""
    (answer,) = answers
    data: list[dict[str, Any]] = []
    for index, score in ranked(answer.scores, body.top_k):
        row: dict[str, Any] = {"index": index, "relevance_score": score}
        if body.return_documents:
            row["document"] = body.documents[index]
        data.append(row)
    return {
        "object": "list",
        "data": data,
        "model": answer.model.name,
        "usage": {"total_tokens": tokens_of(answer)},
        **input_report(answer, body.details is True),
    }


EMBEDDINGS = Operation(
    id="voyage_embeddings",
    protocol=PROTOCOL,
    method="POST",
    paths=("/v1/embeddings",),
    summary="Embed texts (Voyage)",
    body=EmbeddingsBody,
    answer=EmbeddingList,
    parse=_parse_embeddings,
    reply=_embeddings_reply,
)

RERANK = Operation(
    id="voyage_rerank",
    protocol=PROTOCOL,
    method="POST",
    paths=("/v1/rerank",),
    summary="Order documents by relevance (Voyage)",
    body=RerankBody,
    answer=RerankAnswer,
    parse=_parse_rerank,
    reply=_rerank_reply,
)

OPERATIONS = (
    EMBEDDINGS,
    RERANK,
    Operation(
        id="voyage_contextualized",
        protocol=PROTOCOL,
        method="POST",
        paths=("/v1/contextualizedembeddings",),
        summary="Embed chunks in the context of their document (Voyage)",
        body=ContextualizedBody,
        answer=ContextualizedList,
        parse=_parse_contextualized,
        reply=_contextualized_reply,
    ),
)
