"""Voyage: embeddings, contextualized embeddings and rerank under `/v1`."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Struct, UnsetType

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
    quantise,
    ranked,
    report,
    require,
    texts_of,
    tokens_of,
)
from opengte.serve.protocols.roles import role_of, side_of
from opengte.serve.protocols.schema import Count, Texts, exactly
from opengte.serve.types import EmbedAnswer, EmbedRequest, ScoreAnswer, ScoreRequest
from opengte.types import Floats

Side = Literal["query", "document"]
_TEXT = {"type": "string"}


class EmbeddingsBody(Struct, kw_only=True):
    """Voyage's embeddings; `instruction` and `details` are ours."""

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
    """Documents, each a list of its chunks in order: chunks are embedded in sight of the whole."""

    inputs: Annotated[
        list[list[str]],
        exactly(
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
    """Voyage's rerank; `instruction` and `details` are ours."""

    query: str
    documents: Annotated[list[str], exactly("Texts.", type="array", minItems=1, items=_TEXT)]
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
    """Tokens that were really computed."""

    total_tokens: int


class InputReport(Struct, kw_only=True):
    """What happened to one input."""

    index: int
    tokens: int
    embedded_tokens: int
    truncated: bool
    error: str | UnsetType = UNSET


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
    """One document in the order found."""

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
    return STATUSES[failure.kind], {"detail": failure.message}


DIALECT = Dialect("voyage", error, ErrorBody, STATUSES)


def embeddings_requests(body: EmbeddingsBody, exchange: Exchange) -> Work:
    """Return the embedding request of a body; over-long texts are cut unless it says not."""
    require(body.input, "input")
    request = EmbedRequest(
        model=body.model,
        inputs=texts_of(body.input),
        role=role_of(body.input_type),
        instruction=body.instruction,
        dimensions=body.output_dimension,
        truncation=side_of(body.truncation, True),
    )
    return Work((request,), role_given=body.input_type is not None)


def _vectors(answer: EmbedAnswer, body: EmbeddingsBody | ContextualizedBody) -> Rows:
    def form(vector: Floats) -> Any:
        values = quantise(vector, body.output_dtype or "float")
        return base64_of(values) if body.encoding_format else values

    return Rows(
        {"object": "embedding", "embedding": form(vector), "index": index}
        for index, vector in enumerate(dense(answer))
        if vector is not None
    )


def embeddings_reply(
    body: EmbeddingsBody, answers: tuple[EmbedAnswer, ...], exchange: Exchange
) -> Any:
    """Return the list of vectors."""
    (answer,) = answers
    return {
        "object": "list",
        "data": _vectors(answer, body),
        "model": answer.model.name,
        "usage": {"total_tokens": tokens_of(answer)},
        **report(answer, body.details is True),
    }


def contextualized_requests(body: ContextualizedBody, exchange: Exchange) -> Work:
    """Return one late-chunking request a document; a query is a document of one chunk."""
    require(body.inputs, "inputs")
    for index, chunks in enumerate(body.inputs):
        require(chunks, f"inputs[{index}]")
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
    return Work(requests, role_given=body.input_type is not None)


def contextualized_reply(
    body: ContextualizedBody, answers: tuple[EmbedAnswer, ...], exchange: Exchange
) -> Any:
    """Return the vectors of each document's chunks."""
    return {
        "object": "list",
        "data": Rows(
            {"object": "list", "data": _vectors(answer, body), "index": index}
            for index, answer in enumerate(answers)
        ),
        "model": answers[0].model.name,
        "usage": {"total_tokens": sum(tokens_of(answer) for answer in answers)},
    }


def rerank_requests(body: RerankBody, exchange: Exchange) -> Work:
    """Return the scoring request of a body."""
    require(body.documents, "documents")
    request = ScoreRequest(
        model=body.model,
        pairs=tuple((body.query, text) for text in body.documents),
        instruction=body.instruction,
        truncation=side_of(body.truncation, True),
    )
    return Work((request,))


def rerank_reply(body: RerankBody, answers: tuple[ScoreAnswer, ...], exchange: Exchange) -> Any:
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
        **report(answer, body.details is True),
    }


EMBEDDINGS = Operation(
    id="voyage_embeddings",
    dialect=DIALECT,
    method="POST",
    paths=("/v1/embeddings",),
    summary="Embed texts (Voyage)",
    body=EmbeddingsBody,
    answer=EmbeddingList,
    requests=embeddings_requests,
    reply=embeddings_reply,
)

RERANK = Operation(
    id="voyage_rerank",
    dialect=DIALECT,
    method="POST",
    paths=("/v1/rerank",),
    summary="Order documents by relevance (Voyage)",
    body=RerankBody,
    answer=RerankAnswer,
    requests=rerank_requests,
    reply=rerank_reply,
)

OPERATIONS = (
    EMBEDDINGS,
    RERANK,
    Operation(
        id="voyage_contextualized",
        dialect=DIALECT,
        method="POST",
        paths=("/v1/contextualizedembeddings",),
        summary="Embed chunks in sight of their document (Voyage)",
        body=ContextualizedBody,
        answer=ContextualizedList,
        requests=contextualized_requests,
        reply=contextualized_reply,
    ),
)
