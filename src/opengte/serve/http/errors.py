"""From an exception to a failure that a protocol can word, and the headers that go with it."""

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
from opengte.serve.protocols.base import Dialect, Failure, Kind, Policy
from opengte.serve.types import ModelStatus

# the first that fits
KINDS: tuple[tuple[type[Exception], Kind], ...] = (
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

_PLACE = re.compile(r" - at `\$\.?(.*)`$")


class TooLarge(Exception):
    """The body has more bytes than the server takes."""


class Unreadable(Exception):
    """The body is in a form that the server does not read."""


def classify(
    error: Exception, model: str | None = None, statuses: Sequence[ModelStatus] = ()
) -> Failure:
    """Return what an exception means for the request; anything unforeseen is `internal`."""
    if isinstance(error, TooLarge):
        return Failure("too_large", str(error))
    if isinstance(error, Unreadable):
        return Failure("media_type", str(error))
    if isinstance(error, AccessError):
        return Failure("forbidden" if error.authenticated else "unauthenticated", str(error))
    name = next((name for kind, name in KINDS if isinstance(error, kind)), None)
    if name is None:
        return Failure("internal", "The server failed. Its log has this request's id.")
    return Failure(
        name,
        _message(error, name),
        param=_param(error),
        retry_after=getattr(error, "retry_after", None),
        limit=limit_of(model, statuses) if name == "too_long" else None,
        model=model,
    )


def _message(error: Exception, kind: Kind) -> str:
    if isinstance(error, RecursionError):
        return "The body is nested too deeply; expected a JSON object of the fields documented."
    if kind == "malformed":
        return f"The body is not JSON: {error}. Expected a JSON object in UTF-8."
    if isinstance(error, msgspec.ValidationError):
        found = _PLACE.search(str(error))
        if found is None:
            return f"{error}."
        return f"{found[1] or 'The body'}: {str(error)[: found.start()]}."
    return str(error)


def _param(error: Exception) -> str | None:
    if isinstance(error, msgspec.ValidationError):
        found = _PLACE.search(str(error))
        if found is not None:
            return found[1] or None
        missing = re.search(r"missing required field `(\w+)`", str(error))
        return missing and missing[1]
    return None


def limit_of(model: str | None, statuses: Sequence[ModelStatus]) -> int | None:
    """Return how many tokens a model reads; None if it is not known."""
    for status in statuses:
        if status.card is not None and (model is None or status.called(model)):
            return status.card.max_length
    return None


def retry_headers(failure: Failure) -> list[tuple[str, str]]:
    """Return the headers that tell a client when to return, or that it need not."""
    headers = []
    if failure.retry_after is not None:
        seconds = max(failure.retry_after, 0.001)
        headers.append(("retry-after", str(math.ceil(seconds))))
        headers.append(("retry-after-ms", str(math.ceil(seconds * 1000))))
    elif failure.kind in ("deadline", "internal"):
        # the OpenAI clients would send the same again at once
        headers.append(("x-should-retry", "false"))
    if failure.kind == "unauthenticated":
        headers.append(("www-authenticate", "Bearer"))
    return headers


def worded(
    failure: Failure, dialect: Dialect, policy: Policy
) -> tuple[int, object, list[tuple[str, str]]]:
    """Return the status, content and headers of a failure in a dialect."""
    status, content = dialect.error(failure, policy)
    return status, content, retry_headers(failure)
