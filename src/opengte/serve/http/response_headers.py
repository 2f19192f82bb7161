"""What is said beside every answer: which model, which role, what was cut, ignored or failed."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from opengte.published_models import allows_dimension
from opengte.serve.observability.request_record import Record
from opengte.serve.protocols.base import Answer, Work
from opengte.serve.types import EmbedAnswer, EmbedRequest, ScoreAnswer, Timing

LISTED = 50  # indices named in a header


def fill(record: Record, work: Work, answers: Sequence[Answer]) -> None:
    """Write into the record what came out."""
    for request, answer in zip(work.requests, answers, strict=True):
        if not isinstance(answer, EmbedAnswer | ScoreAnswer):
            continue
        record.model = answer.model.name
        record.tokens += int(sum(answer.token_counts))
        record.truncated += len(answer.truncated)
        record.failed += len(answer.failures)
        record.cached += answer.cached
        record.timing = _longest(record.timing, answer.timing)
        if isinstance(request, EmbedRequest) and isinstance(answer, EmbedAnswer):
            record.role = request.role
            record.missing_instruction |= _missing(request, answer)


def _longest(one: Timing, other: Timing) -> Timing:
    return Timing(
        max(one.tokenizing, other.tokenizing),
        max(one.queued, other.queued),
        max(one.computing, other.computing),
    )


def _missing(request: EmbedRequest, answer: EmbedAnswer) -> bool:
    """Return whether a query came without the instruction that the model expects."""
    return (
        answer.model.instruction_template is not None
        and request.role == "query"
        and request.instruction is None
        and request.prompt_name is None
    )


def headers(record: Record, work: Work, answers: Sequence[Answer]) -> list[tuple[str, str]]:
    """Return the X-OpenGTE headers and Server-Timing of an answer."""
    found: list[tuple[str, str]] = []
    if record.ignored_fields:
        found.append(("x-opengte-ignored-fields", listed(record.ignored_fields)))
    scored = [each for each in answers if isinstance(each, EmbedAnswer | ScoreAnswer)]
    if not scored:
        return found
    found.append(("x-opengte-model", scored[0].model.name))
    found.append(("x-opengte-fingerprint", scored[0].model.fingerprint))
    found.append(("x-opengte-priority", record.priority or "interactive"))
    asked = work.requests[0]
    if isinstance(asked, EmbedRequest):
        found.append(("x-opengte-role", _role(asked, work)))
        if _is_untrained(asked, scored[0]):
            found.append(("x-opengte-dimensions", f"{asked.dimensions}; untrained"))
    if record.missing_instruction:
        found.append(("x-opengte-missing-instruction", "1"))
    if record.truncated:
        found.append(("x-opengte-truncated", _indices(record.truncated, scored, "truncated")))
    if record.failed:
        found.append(("x-opengte-failed", _indices(record.failed, scored, "failures")))
    if record.cached:
        found.append(("x-opengte-cached", str(record.cached)))
    found.append(("server-timing", _server_timing(record)))
    return found


def _role(asked: EmbedRequest, work: Work) -> str:
    role = asked.role or "none"
    said = work.role_given or asked.instruction is not None or asked.prompt_name is not None
    return role if said else f"{role}; assumed"


def _is_untrained(asked: EmbedRequest, answer: EmbedAnswer | ScoreAnswer) -> bool:
    """Return whether vectors were cut to a size that the model was not trained for."""
    size, card = asked.dimensions, answer.model
    return size not in (None, card.dimension) and not allows_dimension(card.dimensions, size)


def _indices(count: int, scored: Sequence[EmbedAnswer | ScoreAnswer], what: str) -> str:
    """Return a count and the places, which run on over the parts of a request."""
    places, offset = [], 0
    for answer in scored:
        places += [str(offset + each.index) for each in getattr(answer, what)]
        offset += len(answer.token_counts)
    more = f"; more={count - LISTED}" if count > LISTED else ""
    return f"{count}; indices={','.join(places[:LISTED])}{more}"


def _server_timing(record: Record) -> str:
    timing = record.timing
    return (
        f"tok;dur={timing.tokenizing * 1e3:.3f}, queue;dur={timing.queued * 1e3:.3f}, "
        f"compute;dur={timing.computing * 1e3:.3f}, total;dur={record.age() * 1e3:.3f}"
    )


def listed(names: Sequence[str]) -> str:
    """Return names for a header: at most 20, each at most 40 characters, percent-encoded.

    >>> listed(["user", "größe"])
    'user, gr%C3%B6%C3%9Fe'
    """
    shown = [quote(name[:40], safe="") for name in names[:20]]
    return ", ".join(shown) + (f", and {len(names) - 20} more" if len(names) > 20 else "")


def encoded(pairs: Sequence[tuple[str, Any]]) -> list[tuple[bytes, bytes]]:
    """Return headers as bytes; what is not printable ASCII is percent-encoded."""
    return [(name.encode("ascii"), _value(value)) for name, value in pairs]


def _value(value: str) -> bytes:
    if value.isascii() and value.isprintable():
        return value.encode("ascii")
    return quote(value, safe="/:;,=@+ ").encode("ascii")
