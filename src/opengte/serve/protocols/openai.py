"""OpenAI: `POST /v1/embeddings`, `GET /v1/models` and `GET /v1/models/{model}`."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, structs

from opengte.errors import InputError, UnknownModelError
from opengte.serve.protocols.base import (
    ErrorKind,
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
    input_report,
    inputs_of,
    require_values,
    tokens_of,
)
from opengte.serve.protocols.roles import InputType, Truncate, role_of, truncation_side
from opengte.serve.protocols.schema import (
    Count,
    FilledInputs,
    InputReport,
    Usage,
    decode_foreign_ids,
)
from opengte.serve.types import EmbedAnswer, EmbedRequest, Input, ModelStatus, find_named
from opengte.types import Output


class EmbeddingsBody(Struct, kw_only=True):
    """OpenAI's CreateEmbeddingRequest; the fields from `input_type` on are extensions."""

    input: FilledInputs
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    user: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None
    prompt_name: str | None = None
    truncate: bool | Truncate | None = None
    normalize: bool | None = None
    outputs: list[Literal["dense", "sparse", "tokens"]] | None = None
    token_ids: Literal["model", "cl100k_base", "o200k_base"] | None = None
    partial: bool | None = None
    details: bool | None = None


class Sparse(Struct):
    """Weights of the tokens in a text, by ascending token id."""

    indices: list[int]
    values: list[float]


class Embedding(Struct, kw_only=True):
    """One vector; null if the input failed and the request has `partial`."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str | None
    sparse: Sparse | None | UnsetType = UNSET
    tokens: list[list[float]] | None | UnsetType = UNSET


class EmbeddingList(Struct, kw_only=True):
    """OpenAI's CreateEmbeddingResponse, with `inputs` on request or if an input was truncated."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    inputs: list[InputReport] | UnsetType = UNSET


class Model(Struct, kw_only=True):
    """OpenAI's Model, and more facts about it from `state` on.

    Xinference's clients read `model_type`.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    state: Literal["loading", "ready", "failed", "unhealthy"]
    kind: Literal["encoder", "reranker"] | None
    model_type: Literal["embedding", "rerank"] | None
    dimension: int | None
    max_length: int | None
    fingerprint: str | None


class ModelList(Struct):
    """The models of this server."""

    object: Literal["list"]
    data: list[Model]


class ErrorDetail(Struct):
    """OpenAI's Error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct):
    """OpenAI's ErrorResponse."""

    error: ErrorDetail


# kind -> OpenAI's `type` and `code`
NAMES: dict[ErrorKind, tuple[str, str | None]] = {
    "malformed": ("invalid_request_error", None),
    "invalid": ("invalid_request_error", None),
    "too_long": ("invalid_request_error", "context_length_exceeded"),
    "too_large": ("invalid_request_error", "request_too_large"),
    "media_type": ("invalid_request_error", "unsupported_media_type"),
    "unsupported": ("invalid_request_error", "unsupported"),
    "unauthenticated": ("invalid_request_error", "invalid_api_key"),
    "forbidden": ("invalid_request_error", "permission_denied"),
    "unknown_model": ("invalid_request_error", "model_not_found"),
    "not_found": ("invalid_request_error", "unknown_url"),
    "method": ("invalid_request_error", "method_not_allowed"),
    "limited": ("rate_limit_error", "rate_limit_exceeded"),
    "overloaded": ("server_error", "overloaded"),
    "not_ready": ("server_error", "model_not_ready"),
    "deadline": ("server_error", "deadline_exceeded"),
    "engine": ("server_error", "engine_error"),
    "internal": ("server_error", None),
}


def _error(failure: RequestFailure, policy: ProtocolPolicy) -> tuple[int, Any]:
    """Return the status and body of a failure."""
    kind, code = NAMES[failure.kind]
    message = failure.message
    if failure.kind == "too_long":
        # clients look for these words, and for the number
        limit = f" is {failure.limit} tokens" if failure.limit else " is exceeded"
        message = f"This model's maximum context length{limit}. {message}"
    content = {"message": message, "type": kind, "param": failure.param, "code": code}
    return PROTOCOL.status(failure.kind), {"error": content}


PROTOCOL = WireProtocol("openai", _error, ErrorBody)


def _embed_inputs(value: Any, model: str | None, declared: str | None, info: RequestInfo) -> Any:
    """Return the inputs; InputError for none, an empty one, or foreign token ids."""
    require_values(value, "input")
    inputs = decode_foreign_ids(inputs_of(value), model, declared, info)
    for index, item in enumerate(inputs):
        if not item:
            raise InputError(
                f"input[{index}] is empty; expected at least one character or token. Leave it out."
            )
    return inputs


def _parse_embeddings(body: EmbeddingsBody, info: RequestInfo) -> ParsedRequest:
    """Return the embedding request of a body."""
    inputs: tuple[Input, ...] = _embed_inputs(body.input, body.model, body.token_ids, info)
    outputs: tuple[Output, ...] = tuple(body.outputs) if body.outputs else ("dense",)
    request = EmbedRequest(
        model=body.model,
        inputs=inputs,
        role=role_of(body.input_type),
        instruction=body.instruction,
        prompt_name=body.prompt_name,
        outputs=outputs,
        dimensions=body.dimensions,
        truncation=truncation_side(body.truncate, info.policy.auto_truncate),
        normalize=body.normalize is not False,
        partial=body.partial is True,
    )
    return ParsedRequest((request,), role_given=body.input_type is not None)


def _parse_deployment(body: EmbeddingsBody, info: RequestInfo) -> ParsedRequest:
    """Return the embedding request of a body, for the model in the path."""
    return _parse_embeddings(structs.replace(body, model=info.path["model"]), info)


def _embeddings_reply(
    body: EmbeddingsBody, answers: tuple[EmbedAnswer, ...], info: RequestInfo
) -> Any:
    """Return the list of vectors."""
    (answer,) = answers
    tokens = tokens_of(answer)
    return {
        "object": "list",
        "data": LazyArray(_data(answer, body.encoding_format == "base64")),
        "model": answer.model.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        **input_report(answer, body.details is True),
    }


def _data(answer: EmbedAnswer, in_base64: bool) -> Iterator[dict[str, Any]]:
    for index in range(len(answer.token_counts)):
        vector = answer.dense[index] if answer.dense is not None else None
        item: dict[str, Any] = {
            "object": "embedding",
            "index": index,
            "embedding": base64_of(vector) if in_base64 and vector is not None else vector,
        }
        if answer.sparse is not None:
            item["sparse"] = _sparse(answer.sparse[index])
        if answer.tokens is not None:
            item["tokens"] = answer.tokens[index]
        yield item


def _sparse(weights: dict[int, float] | None) -> dict[str, Any] | None:
    if weights is None:
        return None
    indices = sorted(weights)
    return {"indices": indices, "values": [weights[token] for token in indices]}


_MODEL_TYPES = {"encoder": "embedding", "reranker": "rerank"}


def _model(status: ModelStatus) -> dict[str, Any]:
    card = status.card
    return {
        "id": status.name,
        "object": "model",
        "created": status.created,
        "owned_by": "opengte",
        "state": status.state,
        "kind": card and card.kind,
        "model_type": card and _MODEL_TYPES[card.kind],
        "dimension": card and card.dimension,
        "max_length": card and card.max_length,
        "fingerprint": card and card.fingerprint,
    }


def _models_reply(body: None, answers: tuple[()], info: RequestInfo) -> Any:
    """Return all models."""
    return {"object": "list", "data": [_model(status) for status in info.models()]}


def _model_reply(body: None, answers: tuple[()], info: RequestInfo) -> Any:
    """Return one model; UnknownModelError for a name that no model has."""
    name = info.path["model"]
    status = find_named(name.rstrip("/"), info.models())
    if status is not None:
        return _model(status)
    raise UnknownModelError(f"The model {name!r} does not exist. GET /v1/models lists them.")


EMBEDDINGS = Operation(
    id="openai_embeddings",
    protocol=PROTOCOL,
    method="POST",
    paths=("/v1/embeddings", "/embeddings"),
    summary="Embed texts (OpenAI)",
    body=EmbeddingsBody,
    answer=EmbeddingList,
    parse=_parse_embeddings,
    reply=_embeddings_reply,
    inert=frozenset({"user"}),
    refused={
        "prompt": "Pass `instruction`, `input_type` or `prompt_name`.",
        "messages": "Pass `input`; chat templates are not applied.",
        "truncate_prompt_tokens": "Pass `truncate`.",
        "add_special_tokens": "They are always added.",
    },
)

OPERATIONS = (
    EMBEDDINGS,
    dataclasses.replace(
        EMBEDDINGS,
        id="azure_embeddings",
        paths=("/openai/deployments/{model:path}/embeddings",),
        summary="Embed texts (Azure OpenAI; the model is the deployment)",
        parse=_parse_deployment,
    ),
    Operation(
        id="openai_models",
        protocol=PROTOCOL,
        method="GET",
        paths=("/v1/models", "/models"),
        summary="List the models (OpenAI)",
        answer=ModelList,
        reply=_models_reply,
    ),
    Operation(
        id="openai_model",
        protocol=PROTOCOL,
        method="GET",
        paths=("/v1/models/{model:path}",),
        summary="Describe a model (OpenAI)",
        answer=Model,
        reply=_model_reply,
    ),
)
