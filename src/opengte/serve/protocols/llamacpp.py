"""llama.cpp's server: `/embedding`, `/tokenize`, `/detokenize` in its own form.

Its OpenAI route is OpenAI's, its rerank Jina's.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from opengte.serve.protocols.base import (
    DecodeRequest,
    Dialect,
    Exchange,
    Failure,
    Kind,
    Operation,
    Policy,
    TokenizeRequest,
    Work,
)
from opengte.serve.protocols.encodings import Rows, dense, inputs_of, require
from opengte.serve.protocols.roles import InputType, role_of, side_of
from opengte.serve.protocols.schema import Inputs, TokenId
from opengte.serve.types import EmbedAnswer, EmbedRequest, Token


class EmbeddingBody(Struct, kw_only=True):
    """`POST /embedding`; embd_normalize 2 is L2, -1 none. `model`, `input_type` are ours."""

    content: Inputs
    embd_normalize: Literal[2, -1] | None = None
    model: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None


class TokenizeBody(Struct, kw_only=True):
    """`POST /tokenize`."""

    content: str
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None
    model: str | None = None


class DetokenizeBody(Struct, kw_only=True):
    """`POST /detokenize`."""

    tokens: list[TokenId]
    model: str | None = None


class Embedding(Struct):
    """One input's vector, as the one row of a matrix."""

    index: int
    embedding: list[list[float]]


class Piece(Struct):
    """A token and its text."""

    id: int
    piece: str


class Tokens(Struct):
    """Token ids, with their texts where asked for."""

    tokens: list[int | Piece]


class Text(Struct):
    """A text."""

    content: str


class ErrorDetail(Struct, kw_only=True):
    """llama.cpp's error."""

    code: int
    message: str
    type: str
    n_ctx: int | UnsetType = UNSET


class ErrorBody(Struct):
    """What llama.cpp's errors are in."""

    error: ErrorDetail


STATUSES: dict[Kind, int] = {
    "malformed": 400,
    "invalid": 400,
    "too_long": 400,
    "too_large": 413,
    "media_type": 415,
    "unsupported": 400,  # its own 501 would say that the server failed
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

TYPES: dict[Kind, str] = {
    "too_long": "exceed_context_size_error",
    "unsupported": "not_supported_error",
    "unauthenticated": "authentication_error",
    "forbidden": "permission_error",
    "unknown_model": "not_found_error",
    "not_found": "not_found_error",
    "overloaded": "unavailable_error",
    "not_ready": "unavailable_error",
    "deadline": "unavailable_error",
    "engine": "server_error",
    "internal": "server_error",
}


def error(failure: Failure, policy: Policy) -> tuple[int, Any]:
    """Return the status and body of a failure."""
    status = STATUSES[failure.kind]
    detail: dict[str, Any] = {
        "code": status,
        "message": failure.message,
        "type": TYPES.get(failure.kind, "invalid_request_error"),
    }
    if failure.kind == "too_long" and failure.limit:
        detail["n_ctx"] = failure.limit
    return status, {"error": detail}


DIALECT = Dialect("llamacpp", error, ErrorBody, STATUSES)


def embedding_requests(body: EmbeddingBody, exchange: Exchange) -> Work:
    """Return the embedding request of a body."""
    require(body.content, "content")
    request = EmbedRequest(
        model=body.model,
        inputs=inputs_of(body.content, "content"),
        role=role_of(body.input_type),
        instruction=body.instruction,
        truncation=side_of(None, exchange.policy.auto_truncate),
        normalize=body.embd_normalize != -1,
    )
    return Work((request,), role_given=body.input_type is not None)


def embedding_reply(
    body: EmbeddingBody, answers: tuple[EmbedAnswer, ...], exchange: Exchange
) -> Any:
    """Return a list of vectors."""
    vectors = enumerate(dense(answers[0]))
    return Rows({"index": index, "embedding": [vector]} for index, vector in vectors)


def tokenize_requests(body: TokenizeBody, exchange: Exchange) -> Work:
    """Return the request of a body; special tokens are left out unless asked for."""
    return Work((TokenizeRequest(body.model, (body.content,), body.add_special is True),))


def tokenize_reply(
    body: TokenizeBody, answers: tuple[list[list[Token]], ...], exchange: Exchange
) -> Any:
    """Return the ids."""
    (tokens,) = answers[0]
    if body.with_pieces:
        return {"tokens": [{"id": token.id, "piece": token.text} for token in tokens]}
    return {"tokens": [token.id for token in tokens]}


def detokenize_requests(body: DetokenizeBody, exchange: Exchange) -> Work:
    """Return the request of a body."""
    return Work((DecodeRequest(body.model, (tuple(body.tokens),), skip_special=False),))


def detokenize_reply(
    body: DetokenizeBody, answers: tuple[list[str], ...], exchange: Exchange
) -> Any:
    """Return the text."""
    return {"content": answers[0][0]}


EMBEDDING = Operation(
    id="llamacpp_embedding",
    dialect=DIALECT,
    method="POST",
    paths=("/embedding", "/embeddings"),
    summary="Embed texts (llama.cpp)",
    body=EmbeddingBody,
    answer=list[Embedding],
    requests=embedding_requests,
    reply=embedding_reply,
)

TOKENIZE = Operation(
    id="llamacpp_tokenize",
    dialect=DIALECT,
    method="POST",
    paths=("/tokenize",),
    summary="Text to tokens (llama.cpp)",
    body=TokenizeBody,
    answer=Tokens,
    requests=tokenize_requests,
    reply=tokenize_reply,
    inert=frozenset({"parse_special"}),
)

OPERATIONS = (
    EMBEDDING,
    TOKENIZE,
    Operation(
        id="llamacpp_detokenize",
        dialect=DIALECT,
        method="POST",
        paths=("/detokenize",),
        summary="Tokens to text (llama.cpp)",
        body=DetokenizeBody,
        answer=Text,
        requests=detokenize_requests,
        reply=detokenize_reply,
    ),
)
