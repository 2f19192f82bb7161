"""From an exception to the failure that a wire protocol reports, and its response headers."""

import math
import re
from collections.abc import Sequence

import msgspec

from opengte.errors import (
    AccessError,
    CapabilityError,
    DeadlineError,
    EngineError,
    InputError,
    LimitError,
    NotReadyError,
    OpenGTEError,
    OverloadedError,
    TruncationError,
    UnknownModelError,
)
from opengte.serve.protocols.base import ErrorKind, ProtocolPolicy, RequestFailure, WireProtocol
from opengte.serve.types import ModelStatus, find_named

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left; nobody receives it


class BodyTooLarge(Exception):
    """The body has more bytes than the server takes."""


class UnsupportedMediaType(Exception):
    """The body has an encoding that the server does not read."""


# exception -> kind of error, whose status is in `protocols.base.STATUSES`; the first match counts
ERROR_KINDS: tuple[tuple[type[Exception], ErrorKind], ...] = (
    (BodyTooLarge, "too_large"),
    (UnsupportedMediaType, "media_type"),
    (TruncationError, "too_long"),
    (InputError, "invalid"),
    (CapabilityError, "unsupported"),
    (UnknownModelError, "unknown_model"),
    (NotReadyError, "not_ready"),
    (OverloadedError, "overloaded"),
    (DeadlineError, "deadline"),
    (LimitError, "limited"),
    (EngineError, "engine"),
    (msgspec.ValidationError, "invalid"),
    (msgspec.DecodeError, "malformed"),
    (RecursionError, "malformed"),
    (OpenGTEError, "internal"),
)

_FIELD_PATH = re.compile(r" - at `\$\.?(.*)`$")  # where msgspec says that an error is


def to_failure(
    error: Exception, model: str | None = None, statuses: Sequence[ModelStatus] = ()
) -> RequestFailure:
    """Return what an exception means for the request; an unforeseen one is `internal`."""
    if isinstance(error, AccessError):
        return RequestFailure("forbidden" if error.authenticated else "unauthenticated", str(error))
    kind = next((kind for type_, kind in ERROR_KINDS if isinstance(error, type_)), None)
    if kind is None:
        return RequestFailure("internal", "The server failed. Its log has this request's id.")
    return RequestFailure(
        kind,
        _message(error, kind),
        param=_param(error),
        retry_after=getattr(error, "retry_after", None) or None,  # 0: it does not help
        limit=max_length_of(model, statuses) if kind == "too_long" else None,
        model=model,
    )


def _message(error: Exception, kind: ErrorKind) -> str:
    if isinstance(error, RecursionError):
        return "The body is nested too deeply; expected a JSON object of the fields documented."
    if kind == "malformed":
        return f"The body is not JSON: {error}. Expected a JSON object in UTF-8."
    if isinstance(error, msgspec.ValidationError):
        path = _FIELD_PATH.search(str(error))
        if path is None:
            return f"{error}."
        return f"{path[1] or 'The body'}: {str(error)[: path.start()]}."
    return str(error)


def _param(error: Exception) -> str | None:
    if isinstance(error, msgspec.ValidationError):
        path = _FIELD_PATH.search(str(error))
        if path is not None:
            return path[1] or None
        missing = re.search(r"missing required field `(\w+)`", str(error))
        return missing and missing[1]
    return None


def max_length_of(model: str | None, statuses: Sequence[ModelStatus]) -> int | None:
    """Return how many tokens a model (the first one for None) reads; None if it is not known."""
    loaded = [status for status in statuses if status.card is not None]
    found = find_named(model, loaded) if model is not None else next(iter(loaded), None)
    return found.card.max_length if found is not None and found.card is not None else None


def retry_headers(failure: RequestFailure) -> list[tuple[str, str]]:
    """Return the headers that say when or whether to retry, and how to authenticate."""
    headers = []
    if failure.retry_after is not None:
        seconds = max(failure.retry_after, 0.001)
        headers.append(("retry-after", str(math.ceil(seconds))))
        headers.append(("retry-after-ms", str(math.ceil(seconds * 1000))))
    elif failure.kind in ("deadline", "internal", "limited"):
        # OpenAI's clients would otherwise send the same request again at once
        headers.append(("x-should-retry", "false"))
    if failure.kind == "unauthenticated":
        headers.append(("www-authenticate", "Bearer"))
    return headers


def to_response(
    failure: RequestFailure, protocol: WireProtocol, policy: ProtocolPolicy
) -> tuple[int, object, list[tuple[str, str]]]:
    """Return the status, content and headers of a failure in a wire protocol."""
    status, content = protocol.error(failure, policy)
    return status, content, retry_headers(failure)
