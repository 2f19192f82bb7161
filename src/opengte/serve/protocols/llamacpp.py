"""llama.cpp's server: `/embedding`, `/tokenize` and `/detokenize`.

Its OpenAI route is in `openai.py`, its rerank route in `jina.py`.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from opengte.serve.protocols.base import (
    DecodeRequest,
    ErrorKind,
    Operation,
    ParsedRequest,
    ProtocolPolicy,
    RequestFailure,
    RequestInfo,
    TokenizeRequest,
    WireProtocol,
)
from opengte.serve.protocols.encodings import LazyArray, dense_vectors, inputs_of, require_values
from opengte.serve.protocols.roles import InputType, role_of, truncation_side
from opengte.serve.protocols.schema import Inputs, TokenId
from opengte.serve.types import EmbedAnswer, EmbedRequest, Token


class EmbeddingBody(Struct, kw_only=True):
    """`POST /embedding`; embd_normalize 2 is L2, -1 none; extensions from `model` on."""

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
    """Token ids, with their texts on request."""

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
    """The body of llama.cpp's errors."""

    error: ErrorDetail


# the default is invalid_request_error
TYPES: dict[ErrorKind, str] = {
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


def _error(failure: RequestFailure, policy: ProtocolPolicy) -> tuple[int, Any]:
    """Return the status and body of a failure."""
    status = PROTOCOL.status(failure.kind)
    detail: dict[str, Any] = {
        "code": status,
        "message": failure.message,
        "type": TYPES.get(failure.kind, "invalid_request_error"),
    }
    if failure.kind == "too_long" and failure.limit:
        detail["n_ctx"] = failure.limit
    return status, {"error": detail}


PROTOCOL = WireProtocol("llamacpp", _error, ErrorBody)


def _parse_embedding(body: EmbeddingBody, info: RequestInfo) -> ParsedRequest:
    """Return the embedding request of a body."""
    require_values(body.content, "content")
    request = EmbedRequest(
        model=body.model,
        inputs=inputs_of(body.content, "content"),
        role=role_of(body.input_type),
        instruction=body.instruction,
        truncation=truncation_side(None, info.policy.auto_truncate),
        normalize=body.embd_normalize != -1,
    )
    return ParsedRequest((request,), role_given=body.input_type is not None)


def _embedding_reply(
    body: EmbeddingBody, answers: tuple[EmbedAnswer, ...], info: RequestInfo
) -> Any:
    """Return a list of vectors."""
    vectors = enumerate(dense_vectors(answers[0]))
    return LazyArray({"index": index, "embedding": [vector]} for index, vector in vectors)


def _parse_tokenize(body: TokenizeBody, info: RequestInfo) -> ParsedRequest:
    """Return the request of a body; special tokens are left out by default."""
    return ParsedRequest((TokenizeRequest(body.model, (body.content,), body.add_special is True),))


def _tokenize_reply(
    body: TokenizeBody, answers: tuple[list[list[Token]], ...], info: RequestInfo
) -> Any:
    """Return the ids."""
    (tokens,) = answers[0]
    if body.with_pieces:
        return {"tokens": [{"id": token.id, "piece": token.text} for token in tokens]}
    return {"tokens": [token.id for token in tokens]}


def _parse_detokenize(body: DetokenizeBody, info: RequestInfo) -> ParsedRequest:
    """Return the request of a body."""
    return ParsedRequest((DecodeRequest(body.model, (tuple(body.tokens),), skip_special=False),))


def _detokenize_reply(
    body: DetokenizeBody, answers: tuple[list[str], ...], info: RequestInfo
) -> Any:
    """Return the text."""
    return {"content": answers[0][0]}


EMBEDDING = Operation(
    id="llamacpp_embedding",
    protocol=PROTOCOL,
    method="POST",
    paths=("/embedding", "/embeddings"),
    summary="Embed texts (llama.cpp)",
    body=EmbeddingBody,
    answer=list[Embedding],
    parse=_parse_embedding,
    reply=_embedding_reply,
)

TOKENIZE = Operation(
    id="llamacpp_tokenize",
    protocol=PROTOCOL,
    method="POST",
    paths=("/tokenize",),
    summary="Text to tokens (llama.cpp)",
    body=TokenizeBody,
    answer=Tokens,
    parse=_parse_tokenize,
    reply=_tokenize_reply,
    inert=frozenset({"parse_special"}),
)

OPERATIONS = (
    EMBEDDING,
    TOKENIZE,
    Operation(
        id="llamacpp_detokenize",
        protocol=PROTOCOL,
        method="POST",
        paths=("/detokenize",),
        summary="Tokens to text (llama.cpp)",
        body=DetokenizeBody,
        answer=Text,
        parse=_parse_detokenize,
        reply=_detokenize_reply,
    ),
)
