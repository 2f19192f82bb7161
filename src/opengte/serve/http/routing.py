"""Whose a request on a shared path is: decided here, by its fields, and nowhere else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from opengte.serve.protocols import cohere, jina, llamacpp, ollama, openai, tei, voyage
from opengte.serve.protocols.base import Dialect, Exchange, Operation

# a request's top-level fields, undecoded
Fields = Mapping[str, Any]

PROTOCOLS = (openai, tei, cohere, jina, voyage, ollama, llamacpp)
OPERATIONS: tuple[Operation, ...] = tuple(
    operation for protocol in PROTOCOLS for operation in protocol.OPERATIONS
)


@dataclass(frozen=True)
class Endpoint:
    """A method of a path, the operations that may be meant, and what decides between them.

    Errors before that, such as a body that is no JSON, are in the words of the first operation.
    """

    method: str
    path: str
    operations: tuple[Operation, ...]
    choose: Callable[[Fields, Exchange], Operation]


def _by_fields(
    default: Operation, *rules: tuple[Operation, frozenset[str]]
) -> Callable[[Fields, Exchange], Operation]:
    """Return the first operation of whose own fields the request has one, or the default."""

    def choose(fields: Fields, exchange: Exchange) -> Operation:
        for operation, own in rules:
            if not own.isdisjoint(fields):
                return operation
        return default

    return choose


_VOYAGE = frozenset({"truncation", "output_dtype", "output_dimension"})
_JINA = frozenset({"task", "late_chunking", "embedding_type", "normalized", "return_multivector"})
_VOYAGE_RANK = frozenset({"top_k", "truncation"})
_COHERE_RANK = frozenset({"rank_fields", "max_chunks_per_doc", "max_tokens_per_doc"})


_rerank_by_fields = _by_fields(
    jina.RERANK, (voyage.RERANK, _VOYAGE_RANK), (cohere.RERANK_V1, _COHERE_RANK)
)


def _rerank(fields: Fields, exchange: Exchange) -> Operation:
    """Return whose rerank it is; Cohere's own client says who it is, its fields often do not."""
    return cohere.RERANK_V1 if exchange.sdk == "cohere" else _rerank_by_fields(fields, exchange)


def _by_model(fields: Fields, exchange: Exchange) -> Operation:
    """Return what TEI does at its root: what the fields say, or else the first model's own task."""
    if "texts" in fields or "query" in fields:
        return tei.RERANK
    if bytes(fields.get("inputs", b"")).lstrip()[:1] == b"{":
        return tei.SIMILARITY
    statuses = exchange.models()
    card = statuses[0].card if statuses else None
    return tei.PREDICT if card is not None and card.kind == "reranker" else tei.EMBED


# method, path -> who may be meant, the default first, and how that is decided
SHARED: dict[tuple[str, str], tuple[tuple[Operation, ...], Any]] = {
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


def dialect_of(path: str) -> Dialect:
    """Return in whose words to say that a path, or a method of it, does not exist."""
    for operations, _ in (rule for (_, shared), rule in SHARED.items() if shared == path):
        return operations[0].dialect
    for operation in OPERATIONS:
        if path in operation.paths:
            return operation.dialect
    for prefix, dialect in (("/api/", ollama.DIALECT), ("/v2/", cohere.DIALECT)):
        if path.startswith(prefix):
            return dialect
    return openai.DIALECT


def _only(operation: Operation) -> Callable[[Fields, Exchange], Operation]:
    return lambda fields, exchange: operation


def endpoints() -> tuple[Endpoint, ...]:
    """Return every method of every path, those most asked for first."""
    found: dict[tuple[str, str], Endpoint] = {
        (method, path): Endpoint(method, path, operations, choose)
        for (method, path), (operations, choose) in SHARED.items()
    }
    for operation in OPERATIONS:
        for path in operation.paths:
            at = operation.method, path
            if at not in found:
                found[at] = Endpoint(*at, (operation,), _only(operation))
            elif operation not in found[at].operations:
                raise AssertionError(f"{operation.id} has no rule for {path}")
    return tuple(found.values())
