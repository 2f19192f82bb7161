"""The routes of all protocols; on a path that several share, a request's fields decide."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from opengte.serve.protocols import cohere, jina, llamacpp, ollama, openai, tei, voyage
from opengte.serve.protocols.base import Operation, RequestInfo, WireProtocol

# the top-level fields of a request that are not null, with undecoded values
Fields = Mapping[str, Any]

PROTOCOLS = (openai, tei, cohere, jina, voyage, ollama, llamacpp)
OPERATIONS: tuple[Operation, ...] = tuple(
    operation for protocol in PROTOCOLS for operation in protocol.OPERATIONS
)


@dataclass(frozen=True)
class Endpoint:
    """A method of a path, the operations that share it, and what chooses between them.

    Errors before the choice, such as a body that is not JSON, have the form of the first one.
    """

    method: str
    path: str
    operations: tuple[Operation, ...]
    choose: Callable[[Fields, RequestInfo], Operation]


def _by_fields(
    default: Operation, *rules: tuple[Operation, frozenset[str]]
) -> Callable[[Fields, RequestInfo], Operation]:
    """Return what chooses the first operation with a field of its own, or else the default."""

    def choose(fields: Fields, info: RequestInfo) -> Operation:
        for operation, own in rules:
            if not own.isdisjoint(fields):
                return operation
        return default

    return choose


# fields that only one protocol has
_VOYAGE = frozenset({"truncation", "output_dtype", "output_dimension"})
_JINA = frozenset({"task", "late_chunking", "embedding_type", "normalized", "return_multivector"})
_VOYAGE_RANK = frozenset({"top_k", "truncation"})
_COHERE_RANK = frozenset({"rank_fields", "max_chunks_per_doc", "max_tokens_per_doc"})


_rerank_by_fields = _by_fields(
    jina.RERANK, (voyage.RERANK, _VOYAGE_RANK), (cohere.RERANK_V1, _COHERE_RANK)
)


def _rerank(fields: Fields, info: RequestInfo) -> Operation:
    """Choose by fields, or by the name of Cohere's client, whose fields are often Jina's too."""
    return cohere.RERANK_V1 if info.sdk == "cohere" else _rerank_by_fields(fields, info)


_PAIRS = re.compile(rb'\[\s*\[\s*"')  # the beginning of a list of lists of texts


def _by_model(fields: Fields, info: RequestInfo) -> Operation:
    """Choose at TEI's root path: by fields, or else by the task of the first model.

    While it is loading, its task is not known: only a reranker reads pairs.
    """
    if "texts" in fields or "query" in fields:
        return tei.RERANK
    inputs = bytes(fields.get("inputs", b"")).lstrip()
    if inputs[:1] == b"{":
        return tei.SIMILARITY
    statuses = info.models()
    card = statuses[0].card if statuses else None
    if card is None:
        return tei.PREDICT if _PAIRS.match(inputs) else tei.EMBED
    return tei.PREDICT if card.kind == "reranker" else tei.EMBED


# (method, path) -> the operations that share it, the default first, and what chooses between them
SHARED_PATHS: dict[tuple[str, str], tuple[tuple[Operation, ...], Any]] = {
    ("POST", "/v1/embeddings"): (
        (openai.EMBEDDINGS, voyage.EMBEDDINGS, jina.EMBEDDINGS),
        _by_fields(openai.EMBEDDINGS, (voyage.EMBEDDINGS, _VOYAGE), (jina.EMBEDDINGS, _JINA)),
    ),
    ("POST", "/embeddings"): (
        (openai.EMBEDDINGS, llamacpp.EMBEDDING, jina.EMBEDDINGS),
        _by_fields(
            openai.EMBEDDINGS,
            (llamacpp.EMBEDDING, frozenset({"content"})),
            (jina.EMBEDDINGS, _JINA),
        ),
    ),
    ("POST", "/v1/rerank"): (
        (jina.RERANK, cohere.RERANK_V1, voyage.RERANK),
        _rerank,
    ),
    ("POST", "/rerank"): (
        (jina.RERANK, tei.RERANK),
        _by_fields(jina.RERANK, (tei.RERANK, frozenset({"texts"}))),
    ),
    ("POST", "/tokenize"): (
        (tei.TOKENIZE, llamacpp.TOKENIZE),
        _by_fields(tei.TOKENIZE, (llamacpp.TOKENIZE, frozenset({"content"}))),
    ),
    ("POST", "/"): ((tei.EMBED, tei.SIMILARITY, tei.PREDICT, tei.RERANK), _by_model),
    ("POST", "/invocations"): ((tei.EMBED, tei.SIMILARITY, tei.PREDICT, tei.RERANK), _by_model),
}


def protocol_of(path: str) -> WireProtocol:
    """Return the protocol for errors on a path, which need not exist."""
    for (_, shared), (operations, _) in SHARED_PATHS.items():
        if shared == path:
            return operations[0].protocol
    for operation in OPERATIONS:
        if path in operation.paths:
            return operation.protocol
    for prefix, protocol in (("/api/", ollama.PROTOCOL), ("/v2/", cohere.PROTOCOL)):
        if path.startswith(prefix):
            return protocol
    return openai.PROTOCOL


def _only(operation: Operation) -> Callable[[Fields, RequestInfo], Operation]:
    return lambda fields, info: operation


def endpoints() -> tuple[Endpoint, ...]:
    """Return every method of every path, the most frequent ones first."""
    routes: dict[tuple[str, str], Endpoint] = {
        (method, path): Endpoint(method, path, operations, choose)
        for (method, path), (operations, choose) in SHARED_PATHS.items()
    }
    for operation in OPERATIONS:
        for path in operation.paths:
            route = operation.method, path
            if route not in routes:
                routes[route] = Endpoint(*route, (operation,), _only(operation))
            elif operation not in routes[route].operations:
                raise AssertionError(f"{operation.id} has no rule for {path}")
    return tuple(routes.values())
