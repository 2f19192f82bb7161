"""Jina: `POST /v1/embeddings` with its own fields, and `POST /v1/rerank`.

Its rerank body is also what Infinity, vLLM and llama.cpp take.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Struct, UnsetType

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
    input_report,
    quantise,
    require_values,
    rerank_results,
    tokens_of,
)
from opengte.serve.protocols.roles import Truncate, role_of, truncation_side
from opengte.serve.protocols.schema import (
    Count,
    Documents,
    InputReport,
    RerankResult,
    Usage,
    exact_schema,
)
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
    """A text, as an object."""

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
    """Jina's embeddings; `instruction`, `prompt_name`, `partial` and `details` are extensions."""

    input: Annotated[
        str | list[str | TextInput],
        exact_schema(
            "A text, or texts and objects with a text.",
            anyOf=[{"type": "string"}, {"type": "array", "minItems": 1, "items": _TEXT}],
        ),
    ]
    model: str | None = None
    task: Task | None = None
    dimensions: Count | None = None
    late_chunking: bool | None = None
    return_multivector: bool | None = None
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
    """One vector, or one a token; null where the input failed and `partial` was asked for."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str | UnsetType | None = UNSET
    embeddings: list[list[float] | str] | UnsetType | None = UNSET


class EmbeddingList(Struct, kw_only=True):
    """Vectors in input order."""

    model: str
    object: Literal["list"]
    usage: Usage
    data: list[Embedding]
    inputs: list[InputReport] | UnsetType = UNSET


class RerankBody(Struct, kw_only=True):
    """Jina's rerank; the fields from `instruction` on are extensions."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: Count | None = None
    return_documents: bool | None = None
    truncate: bool | Truncate | None = None
    instruction: str | None = None
    raw_scores: bool | None = None
    details: bool | None = None


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


def _error(failure: RequestFailure, policy: ProtocolPolicy) -> tuple[int, Any]:
    """Return the status and body of a failure."""
    return PROTOCOL.status(failure.kind), {"detail": failure.message}


PROTOCOL = WireProtocol("jina", _error, ErrorBody, own_statuses={"invalid": 422})


def _parse_embeddings(body: EmbeddingsBody, info: RequestInfo) -> ParsedRequest:
    """Return the embedding request of a body."""
    require_values(body.input, "input")
    items = [body.input] if isinstance(body.input, str) else body.input
    request = EmbedRequest(
        model=body.model,
        inputs=tuple(item.text if isinstance(item, TextInput) else item for item in items),
        role=role_of(body.task),
        instruction=body.instruction,
        prompt_name=body.prompt_name,
        dimensions=body.dimensions,
        truncation=truncation_side(body.truncate, info.policy.auto_truncate),
        normalize=body.normalized is not False,
        late_chunking=body.late_chunking is True,
        outputs=("tokens",) if body.return_multivector else ("dense",),
        partial=body.partial is True,
    )
    return ParsedRequest((request,), role_given=body.task is not None)


def _formatted(vector: Floats | None, form: EmbeddingType) -> Any:
    if vector is None:
        return None
    if form == "base64":
        return base64_of(vector)
    return quantise(vector, form)


def _multivector(rows: Floats | None, form: EmbeddingType) -> Any:
    """Return a text's token vectors, each in the wanted form."""
    return None if rows is None else [_formatted(vector, form) for vector in rows]


def _embeddings_reply(
    body: EmbeddingsBody, answers: tuple[EmbedAnswer, ...], info: RequestInfo
) -> Any:
    """Return the list of vectors."""
    (answer,) = answers
    form = body.embedding_type or body.encoding_format or "float"
    tokens = tokens_of(answer)
    if answer.tokens is not None:
        data = LazyArray(
            {"object": "embedding", "index": index, "embeddings": _multivector(rows, form)}
            for index, rows in enumerate(answer.tokens)
        )
    else:
        data = LazyArray(
            {"object": "embedding", "index": index, "embedding": _formatted(vector, form)}
            for index, vector in enumerate(dense_vectors(answer))
        )
    return {
        "model": answer.model.name,
        "object": "list",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "data": data,
        **input_report(answer, body.details is True),
    }


def _parse_rerank(body: RerankBody, info: RequestInfo) -> ParsedRequest:
    """Return the scoring request of a body."""
    require_values(body.documents, "documents")
    request = ScoreRequest(
        model=body.model,
        pairs=tuple((body.query, text) for text in documents_of(body.documents, ["text"])),
        instruction=body.instruction,
        truncation=truncation_side(body.truncate, info.policy.auto_truncate),
        sigmoid=body.raw_scores is not True,
    )
    return ParsedRequest((request,))


def _rerank_reply(body: RerankBody, answers: tuple[ScoreAnswer, ...], info: RequestInfo) -> Any:
    """Return the documents, best first."""
    (answer,) = answers
    documents = body.documents if body.return_documents else None
    results = rerank_results(answer, body.top_n, documents)
    tokens = tokens_of(answer)
    return {
        "id": info.request_id,
        "model": answer.model.name,
        "object": "list",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results,
        **input_report(answer, body.details is True),
    }


EMBEDDINGS = Operation(
    id="jina_embeddings",
    protocol=PROTOCOL,
    method="POST",
    paths=("/v1/embeddings", "/embeddings"),
    summary="Embed texts (Jina)",
    body=EmbeddingsBody,
    answer=EmbeddingList,
    parse=_parse_embeddings,
    reply=_embeddings_reply,
    inert=frozenset({"user"}),
)

RERANK = Operation(
    id="jina_rerank",
    protocol=PROTOCOL,
    method="POST",
    paths=("/v1/rerank", "/rerank", "/reranking", "/v1/reranking"),
    summary="Order documents by relevance (Jina, Infinity, vLLM, llama.cpp)",
    body=RerankBody,
    answer=RerankAnswer,
    parse=_parse_rerank,
    reply=_rerank_reply,
    refused={"truncate_prompt_tokens": "Pass `truncate`."},
)

OPERATIONS = (EMBEDDINGS, RERANK)
