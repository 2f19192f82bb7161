"""What all codecs are made of: an operation, its dialect of errors, and what a reply carries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from opengte.serve.protocols.token_ids import Vocabularies
from opengte.serve.types import (
    EmbedAnswer,
    EmbedRequest,
    ModelStatus,
    Priority,
    ScoreAnswer,
    ScoreRequest,
    Token,
)

TokenIds = Literal["auto", "model", "tiktoken", "refuse"]


@dataclass(frozen=True)
class TokenizeRequest:
    """Texts to tokens."""

    model: str | None
    texts: tuple[str, ...]
    add_special: bool = True
    prompt_name: str | None = None


@dataclass(frozen=True)
class DecodeRequest:
    """Token ids to texts."""

    model: str | None
    ids: tuple[tuple[int, ...], ...]
    skip_special: bool = True


Request = EmbedRequest | ScoreRequest | TokenizeRequest | DecodeRequest
Answer = EmbedAnswer | ScoreAnswer | list[list[Token]] | list[str]


@dataclass(frozen=True)
class Policy:
    """What the operator decided that codecs must know."""

    auto_truncate: bool = True
    token_ids: TokenIds = "auto"
    vocabularies: Vocabularies = field(default_factory=Vocabularies)
    tei_validation_status: int = 422
    max_inputs: int = 65_536
    max_concurrent_requests: int = 1024
    max_body_bytes: int = 32 << 20
    version: str = ""


@dataclass(frozen=True)
class Exchange:
    """What a codec may know of a request beside its body.

    seconds tells its age; path has the parameters in its path; sdk is the client library that made
    it, where that names itself.
    """

    request_id: str
    policy: Policy
    models: Callable[[], tuple[ModelStatus, ...]]
    seconds: Callable[[], float] = lambda: 0.0
    path: Mapping[str, str] = field(default_factory=dict)
    sdk: str = ""


@dataclass(frozen=True)
class Work:
    """What to ask of the service for one request.

    role_given says whether the caller named the role of the inputs; priority is what the protocol's
    own field asks for.
    """

    requests: tuple[Request, ...] = ()
    role_given: bool = True
    priority: Priority | None = None


Kind = Literal[
    "malformed",  # the body is not JSON
    "invalid",  # a field or an input cannot be used
    "too_long",  # an input has more tokens than the model takes
    "too_large",  # the body has more bytes than the server takes
    "media_type",  # the body is in a form that the server does not read
    "unsupported",  # the model cannot do this
    "unauthenticated",
    "forbidden",
    "unknown_model",
    "not_found",  # no such route
    "method",  # the route has no such method
    "limited",  # a rate limit or quota of the key
    "overloaded",
    "not_ready",
    "deadline",
    "engine",
    "internal",
]


@dataclass(frozen=True)
class Failure:
    """Why a request failed, before a protocol words it.

    param is the path of the field at fault; limit the model's maximum length, on `too_long`.
    """

    kind: Kind
    message: str
    param: str | None = None
    retry_after: float | None = None
    limit: int | None = None
    model: str | None = None


@dataclass(frozen=True)
class Dialect:
    """How one protocol words failures; statuses and body are also the OpenAPI document's."""

    name: str
    error: Callable[[Failure, Policy], tuple[int, Any]]
    body: type[msgspec.Struct]
    statuses: Mapping[Kind, int]


@dataclass(frozen=True)
class Operation:
    """One thing that a protocol's clients can ask.

    requests turns a decoded body into work; reply turns the answers into what is written as JSON,
    where arrays are lists of numbers; both raise InputError and CapabilityError. answer is the type
    of the body, or several; headers is what the protocol says beside it. inert names documented
    fields that are accepted and change nothing: they are reported as ignored, and strict mode lets
    them pass. refused names fields that would change the result, and what to do instead.
    """

    id: str
    dialect: Dialect
    method: str
    paths: tuple[str, ...]
    summary: str
    answer: Any
    reply: Callable[[Any, tuple[Any, ...], Exchange], Any]
    body: type[msgspec.Struct] | None = None
    requests: Callable[[Any, Exchange], Work] = lambda body, exchange: Work()
    headers: Callable[[Work, Sequence[Any], float], tuple[tuple[str, str], ...]] | None = None
    inert: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)  # field -> what to do instead
    public: bool = False
