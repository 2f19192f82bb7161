"""What every wire protocol is made of: its operations, and how it reports errors."""

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
class ProtocolPolicy:
    """The operator's settings that protocols need."""

    auto_truncate: bool = True
    token_ids: TokenIds = "auto"
    vocabularies: Vocabularies = field(default_factory=Vocabularies)
    tei_validation_status: int = 422
    max_inputs: int = 65_536
    max_concurrent_requests: int = 1024
    max_body_bytes: int = 32 << 20
    version: str = ""


@dataclass(frozen=True)
class RequestInfo:
    """What a protocol may use of a request besides its body.

    seconds returns its age; path has the parameters in its path; sdk is the client library that
    sent it, if the library names itself.
    """

    request_id: str
    policy: ProtocolPolicy
    models: Callable[[], tuple[ModelStatus, ...]]
    seconds: Callable[[], float] = lambda: 0.0
    path: Mapping[str, str] = field(default_factory=dict)
    sdk: str = ""


@dataclass(frozen=True)
class ParsedRequest:
    """One HTTP request as internal requests.

    role_given says whether the client named the role of the inputs; priority is what the protocol's
    own field asks for.
    """

    requests: tuple[Request, ...] = ()
    role_given: bool = True
    priority: Priority | None = None


ErrorKind = Literal[
    "malformed",  # the body is not JSON
    "invalid",  # a field or an input cannot be used
    "too_long",  # an input has more tokens than the model takes
    "too_large",  # the body has more bytes than the server takes
    "media_type",  # the body has an encoding that the server does not read
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

# the HTTP status of each kind of error; a protocol whose clients expect another one overrides it
STATUSES: dict[ErrorKind, int] = {
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


@dataclass(frozen=True)
class RequestFailure:
    """Why a request failed, before a protocol reports it.

    param is the path of the field at fault; limit the model's maximum length, for `too_long`.
    """

    kind: ErrorKind
    message: str
    param: str | None = None
    retry_after: float | None = None
    limit: int | None = None
    model: str | None = None


@dataclass(frozen=True)
class WireProtocol:
    """A wire protocol and how it reports errors.

    error returns the status and the content of a failure; error_body is the type of the content.
    own_statuses are the kinds of errors whose status differs from `STATUSES`.
    """

    name: str
    error: Callable[[RequestFailure, ProtocolPolicy], tuple[int, Any]]
    error_body: type[msgspec.Struct]
    own_statuses: Mapping[ErrorKind, int] = field(default_factory=dict)

    def status(self, kind: ErrorKind) -> int:
        """Return the HTTP status of a kind of error."""
        return self.own_statuses.get(kind, STATUSES[kind])


@dataclass(frozen=True)
class Operation:
    """One request type of a protocol.

    parse turns a decoded body into internal requests; reply turns their answers into what is
    written as JSON, where arrays are lists of numbers; both raise InputError and CapabilityError.
    answer is the type of the response body, or several; headers returns the protocol's own response
    headers. inert names documented fields that are accepted and change nothing: they are reported
    as ignored, and strict mode accepts them. refused names fields that would change the result, and
    what to do instead. public operations need no API key.
    """

    id: str
    protocol: WireProtocol
    method: str
    paths: tuple[str, ...]
    summary: str
    answer: Any
    reply: Callable[[Any, tuple[Any, ...], RequestInfo], Any]
    body: type[msgspec.Struct] | None = None
    parse: Callable[[Any, RequestInfo], ParsedRequest] = lambda body, info: ParsedRequest()
    headers: Callable[[ParsedRequest, Sequence[Any], float], tuple[tuple[str, str], ...]] | None = (
        None
    )
    inert: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    public: bool = False
