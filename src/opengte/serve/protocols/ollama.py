"""Ollama: `/api/embed`, `/api/embeddings`, and the routes that its clients call first."""

from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from opengte.errors import InputError, NotReadyError, UnknownModelError
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
    dense_vectors,
    require_values,
    texts_of,
)
from opengte.serve.protocols.roles import InputType, role_of, truncation_side
from opengte.serve.protocols.schema import Count, Texts
from opengte.serve.types import EmbedAnswer, EmbedRequest, ModelStatus, find_named

TAG = ":latest"  # what Ollama's clients append to a name without a tag


class EmbedBody(Struct, kw_only=True):
    """`POST /api/embed`; `input_type` and `instruction` are extensions."""

    model: str
    input: Texts
    truncate: bool | None = None
    dimensions: Count | None = None
    keep_alive: str | int | float | None = None
    options: dict[str, Any] | None = None
    input_type: InputType | None = None
    instruction: str | None = None


class EmbeddingsBody(Struct, kw_only=True):
    """`POST /api/embeddings`, the older form: one text; its vector is not normalised."""

    model: str
    prompt: str
    keep_alive: str | int | float | None = None
    options: dict[str, Any] | None = None
    input_type: InputType | None = None
    instruction: str | None = None


class ShowBody(Struct, kw_only=True):
    """`POST /api/show`."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


class EmbedAnswerBody(Struct, kw_only=True):
    """Vectors in input order; durations in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsAnswerBody(Struct):
    """One vector."""

    embedding: list[float]


class Details(Struct, kw_only=True):
    """Facts about a model."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Tag(Struct, kw_only=True):
    """One model; size is that of its stored parameters in bytes, digest its fingerprint."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(Struct):
    """The models that are loaded."""

    models: list[Tag]


class Running(Tag, kw_only=True):
    """A loaded model; it never expires."""

    expires_at: str
    size_vram: int


class RunningList(Struct):
    """The models that are loaded."""

    models: list[Running]


class Shown(Struct, kw_only=True):
    """One model's description."""

    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class Version(Struct):
    """The version of this server."""

    version: str


class ErrorBody(Struct):
    """Ollama's error."""

    error: str


def _error(failure: RequestFailure, policy: ProtocolPolicy) -> tuple[int, Any]:
    """Return the status and body of a failure; clients look for Ollama's words in some."""
    message = failure.message
    if failure.kind == "unknown_model" and failure.model:
        message = f'model "{failure.model}" not found, try pulling it first'
    elif failure.kind == "too_long":
        message = f"the input length exceeds the context length: {message}"
    elif failure.kind == "overloaded":
        message = "server busy, please try again.  maximum pending requests exceeded"
    return PROTOCOL.status(failure.kind), {"error": message}


PROTOCOL = WireProtocol("ollama", _error, ErrorBody)


def _name(model: str) -> str:
    return model.removesuffix(TAG)


def _parse_embed(body: EmbedBody, info: RequestInfo) -> ParsedRequest:
    """Return the embedding request of a body; over-long texts are truncated by default."""
    require_values(body.input, "input")
    request = EmbedRequest(
        model=_name(body.model),
        inputs=texts_of(body.input),
        role=role_of(body.input_type),
        instruction=body.instruction,
        dimensions=body.dimensions,
        truncation=truncation_side(body.truncate, True),
    )
    return ParsedRequest((request,), role_given=body.input_type is not None)


def _embed_reply(body: EmbedBody, answers: tuple[EmbedAnswer, ...], info: RequestInfo) -> Any:
    """Return the vectors."""
    (answer,) = answers
    return {
        "model": body.model,
        "embeddings": LazyArray(dense_vectors(answer)),
        "total_duration": int(info.seconds() * 1e9),
        "load_duration": 0,
        "prompt_eval_count": int(sum(answer.token_counts)),
    }


def _parse_embeddings(body: EmbeddingsBody, info: RequestInfo) -> ParsedRequest:
    """Return the embedding request of the older form."""
    request = EmbedRequest(
        model=_name(body.model),
        inputs=(body.prompt,),
        role=role_of(body.input_type),
        instruction=body.instruction,
        normalize=False,
    )
    return ParsedRequest((request,), role_given=body.input_type is not None)


def _embeddings_reply(
    body: EmbeddingsBody, answers: tuple[EmbedAnswer, ...], info: RequestInfo
) -> Any:
    """Return the one vector."""
    return {"embedding": dense_vectors(answers[0])[0]}


BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _details(status: ModelStatus) -> dict[str, Any]:
    card = status.card
    assert card is not None
    return {
        "parent_model": "",
        "format": "opengte",
        "family": card.architecture,
        "families": [card.architecture],
        "parameter_size": f"{card.parameters / 1e6:.4g}M",
        "quantization_level": (card.precision or card.stored_dtype).upper(),
    }


def _tag(status: ModelStatus) -> dict[str, Any]:
    card = status.card
    assert card is not None
    name = status.name if ":" in status.name else status.name + TAG
    return {
        "name": name,
        "model": name,
        "modified_at": _time(status.created),
        "size": card.parameters * BYTES.get(card.stored_dtype, 4),
        "digest": card.fingerprint,
        "details": _details(status),
    }


def _loaded(info: RequestInfo) -> list[ModelStatus]:
    return [status for status in info.models() if status.card is not None]


def _tags_reply(body: None, answers: tuple[()], info: RequestInfo) -> Any:
    """Return the loaded models."""
    return {"models": [_tag(status) for status in _loaded(info)]}


def _ps_reply(body: None, answers: tuple[()], info: RequestInfo) -> Any:
    """Return the loaded models as running."""
    rows = [
        {**_tag(status), "expires_at": "9999-12-31T23:59:59Z", "size_vram": 0}
        for status in _loaded(info)
    ]
    return {"models": rows}


def _show_reply(body: ShowBody, answers: tuple[()], info: RequestInfo) -> Any:
    """Return one model's description."""
    asked = body.model or body.name
    if not asked:
        raise InputError("model is missing; expected the name of a model.")
    status = find_named(asked, info.models())
    if status is None:
        raise UnknownModelError(f'model "{asked}" not found, try pulling it first')
    card = status.card
    if card is None:
        raise NotReadyError(f"`{status.name}` is {status.state}; try again later", 2.0)
    family = card.architecture
    return {
        "modelfile": "",
        "parameters": "",
        "template": card.instruction_template or "",
        "details": _details(status),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": card.parameters,
            f"{family}.context_length": card.max_length,
            f"{family}.embedding_length": card.dimension,
            f"{family}.block_count": card.layers,
        },
        "capabilities": ["embedding"] if card.kind == "encoder" else [],
        "modified_at": _time(status.created),
    }


def _version_reply(body: None, answers: tuple[()], info: RequestInfo) -> Any:
    """Return the version."""
    return {"version": info.policy.version}


_INERT = frozenset({"keep_alive", "options"})

OPERATIONS = (
    Operation(
        id="ollama_embed",
        protocol=PROTOCOL,
        method="POST",
        paths=("/api/embed",),
        summary="Embed texts (Ollama)",
        body=EmbedBody,
        answer=EmbedAnswerBody,
        parse=_parse_embed,
        reply=_embed_reply,
        inert=_INERT,
    ),
    Operation(
        id="ollama_embeddings",
        protocol=PROTOCOL,
        method="POST",
        paths=("/api/embeddings",),
        summary="Embed one text (Ollama, older form)",
        body=EmbeddingsBody,
        answer=EmbeddingsAnswerBody,
        parse=_parse_embeddings,
        reply=_embeddings_reply,
        inert=_INERT,
    ),
    Operation(
        id="ollama_tags",
        protocol=PROTOCOL,
        method="GET",
        paths=("/api/tags",),
        summary="List the models (Ollama)",
        answer=Tags,
        reply=_tags_reply,
    ),
    Operation(
        id="ollama_ps",
        protocol=PROTOCOL,
        method="GET",
        paths=("/api/ps",),
        summary="List the loaded models (Ollama)",
        answer=RunningList,
        reply=_ps_reply,
    ),
    Operation(
        id="ollama_show",
        protocol=PROTOCOL,
        method="POST",
        paths=("/api/show",),
        summary="Describe a model (Ollama)",
        body=ShowBody,
        answer=Shown,
        reply=_show_reply,
        inert=frozenset({"verbose"}),
    ),
    Operation(
        id="ollama_version",
        protocol=PROTOCOL,
        method="GET",
        paths=("/api/version",),
        summary="The server's version (Ollama)",
        answer=Version,
        reply=_version_reply,
        public=True,
    ),
)
