"""Jina: `POST /v1/embeddings` with its own fields, and `POST /v1/rerank`.

Its rerank body is also what Infinity, vLLM and llama.cpp take.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Struct, UnsetType

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
    report,
    require,
    tokens_of,
)
from opengte.serve.protocols.roles import Truncate, role_of, side_of
from opengte.serve.protocols.schema import Count, Documents, exactly
from opengte.serve.types import EmbedAnswer, EmbedRequest, ScoreAnswer, ScoreRequest
from opengte.types import Floats

Task = Literal[
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
    "clustering",
]
EmbeddingType = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]


class TextInput(Struct, forbid_unknown_fields=True):
    """A text as an object."""

    text: str


_TEXT = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        },
    ]
}


class EmbeddingsBody(Struct, kw_only=True):
    """Jina's embeddings; `instruction`, `prompt_name`, `partial` and `details` are ours."""

    input: Annotated[
        str | list[str | TextInput],
        exactly(
            "A text, or texts and objects with a text.",
            anyOf=[{"type": "string"}, {"type": "array", "minItems": 1, "items": _TEXT}],
        ),
    ]
    model: str | None = None
    task: Task | None = None
    dimensions: Count | None = None
    late_chunking: bool | None = None
    embedding_type: EmbeddingType | None = None
    normalized: bool | None = None
    truncate: bool | Truncate | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    instruction: str | None = None
    prompt_name: str | None = None
    partial: bool | None = None
    details: bool | None = None


class Embedding(Struct, kw_only=True):
    """One vector; null where the input failed and `partial` was asked for."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str | None


class Usage(Struct):
    """Tokens that were really computed."""

    prompt_tokens: int
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

    model: str
    object: Literal["list"]
    usage: Usage
    data: list[Embedding]
    inputs: list[InputReport] | UnsetType = UNSET


class RerankBody(Struct, kw_only=True):
    """Jina's rerank; fields from `instruction` on are ours."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: Count | None = None
    return_documents: bool | None = None
    truncate: bool | Truncate | None = None
    instruction: str | None = None
    raw_scores: bool | None = None
    details: bool | None = None


class RerankResult(Struct, kw_only=True):
    """One document in the order found."""

    index: int
    relevance_score: float
    document: dict[str, Any] | UnsetType = UNSET


class RerankAnswer(Struct, kw_only=True):
    """The documents, best first."""

    id: str
    model: str
    object: Literal["list"]
    usage: Usage
    results: list[RerankResult]
    inputs: list[InputReport] | UnsetType = UNSET


class ErrorBody(Struct):
    """Jina's error."""

    detail: str


STATUSES: dict[Kind, int] = {
    "malformed": 400,
    "invalid": 422,
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


DIALECT = Dialect("jina", error, ErrorBody, STATUSES)


def embeddings_requests(body: EmbeddingsBody, exchange: Exchange) -> Work:
    """Return the embedding request of a body."""
    require(body.input, "input")
    items = [body.input] if isinstance(body.input, str) else body.input
    request = EmbedRequest(
        model=body.model,
        inputs=tuple(item.text if isinstance(item, TextInput) else item for item in items),
        role=role_of(body.task),
        instruction=body.instruction,
        prompt_name=body.prompt_name,
        dimensions=body.dimensions,
        truncation=side_of(body.truncate, exchange.policy.auto_truncate),
        normalize=body.normalized is not False,
        late_chunking=body.late_chunking is True,
        partial=body.partial is True,
    )
    return Work((request,), role_given=body.task is not None)


def _in_form(vector: Floats | None, form: EmbeddingType) -> Any:
    if vector is None:
        return None
    if form == "base64":
        return base64_of(vector)
    shape: Quantised = form
    return quantise(vector, shape)


def embeddings_reply(
    body: EmbeddingsBody, answers: tuple[EmbedAnswer, ...], exchange: Exchange
) -> Any:
    """Return the list of vectors."""
    (answer,) = answers
    form = body.embedding_type or body.encoding_format or "float"
    tokens = tokens_of(answer)
    data = Rows(
        {"object": "embedding", "index": index, "embedding": _in_form(vector, form)}
        for index, vector in enumerate(dense(answer))
    )
    return {
        "model": answer.model.name,
        "object": "list",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "data": data,
        **report(answer, body.details is True),
    }


def rerank_requests(body: RerankBody, exchange: Exchange) -> Work:
    """Return the scoring request of a body."""
    require(body.documents, "documents")
    request = ScoreRequest(
        model=body.model,
        pairs=tuple((body.query, text) for text in documents_of(body.documents, ["text"])),
        instruction=body.instruction,
        truncation=side_of(body.truncate, exchange.policy.auto_truncate),
        sigmoid=body.raw_scores is not True,
    )
    return Work((request,))


def rerank_reply(body: RerankBody, answers: tuple[ScoreAnswer, ...], exchange: Exchange) -> Any:
    """Return the documents, best first."""
    (answer,) = answers
    results: list[dict[str, Any]] = []
    for index, score in ranked(answer.scores, body.top_n):
        result: dict[str, Any] = {"index": index, "relevance_score": score}
        if body.return_documents:
            result["document"] = echoed(body.documents[index])
        results.append(result)
    tokens = tokens_of(answer)
    return {
        "id": exchange.request_id,
        "model": answer.model.name,
        "object": "list",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results,
        **report(answer, body.details is True),
    }


EMBEDDINGS = Operation(
    id="jina_embeddings",
    dialect=DIALECT,
    method="POST",
    paths=("/v1/embeddings", "/embeddings"),
    summary="Embed texts (Jina)",
    body=EmbeddingsBody,
    answer=EmbeddingList,
    requests=embeddings_requests,
    reply=embeddings_reply,
    inert=frozenset({"user"}),
    refused={"return_multivector": 'Pass "outputs": ["tokens"], without Jina\'s own fields.'},
)

RERANK = Operation(
    id="jina_rerank",
    dialect=DIALECT,
    method="POST",
    paths=("/v1/rerank", "/rerank", "/reranking", "/v1/reranking"),
    summary="Order documents by relevance (Jina, Infinity, vLLM, llama.cpp)",
    body=RerankBody,
    answer=RerankAnswer,
    requests=rerank_requests,
    reply=rerank_reply,
    refused={"truncate_prompt_tokens": "Pass `truncate`."},
)

OPERATIONS = (EMBEDDINGS, RERANK)
