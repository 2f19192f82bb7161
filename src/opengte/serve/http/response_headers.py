"""The X-OpenGTE headers of an answer: model, role, and what was truncated, ignored or failed."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from opengte.published_models import allows_dimension
from opengte.serve.observability.request_record import RequestRecord
from opengte.serve.protocols.base import Answer, ParsedRequest
from opengte.serve.types import EmbedAnswer, EmbedRequest, ScoreAnswer, Timing

MAX_INDICES = 50  # listed in a header


def update_record(record: RequestRecord, parsed: ParsedRequest, answers: Sequence[Answer]) -> None:
    """Add the measurements of the answers to the record."""
    for request, answer in zip(parsed.requests, answers, strict=True):
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
            record.missing_instruction |= _lacks_instruction(request, answer)


def _longest(first: Timing, second: Timing) -> Timing:
    return Timing(
        max(first.tokenizing, second.tokenizing),
        max(first.queued, second.queued),
        max(first.computing, second.computing),
    )


def _lacks_instruction(request: EmbedRequest, answer: EmbedAnswer) -> bool:
    """Return whether a query came without the instruction that the model expects."""
    return (
        answer.model.instruction_template is not None
        and request.role == "query"
        and request.instruction is None
        and request.prompt_name is None
    )


def answer_headers(
    record: RequestRecord, parsed: ParsedRequest, answers: Sequence[Answer]
) -> list[tuple[str, str]]:
    """Return the X-OpenGTE headers and Server-Timing of an answer."""
    headers: list[tuple[str, str]] = []
    if record.ignored_fields:
        headers.append(("x-opengte-ignored-fields", header_list(record.ignored_fields)))
    scored = [each for each in answers if isinstance(each, EmbedAnswer | ScoreAnswer)]
    if not scored:
        return headers
    headers.append(("x-opengte-model", scored[0].model.name))
    headers.append(("x-opengte-fingerprint", scored[0].model.fingerprint))
    headers.append(("x-opengte-priority", record.priority or "interactive"))
    request = parsed.requests[0]
    if isinstance(request, EmbedRequest):
        headers.append(("x-opengte-role", _role(request, parsed)))
        if _is_untrained(request, scored[0]):
            headers.append(("x-opengte-dimensions", f"{request.dimensions}; untrained"))
    if record.missing_instruction:
        headers.append(("x-opengte-missing-instruction", "1"))
    if record.truncated:
        headers.append(("x-opengte-truncated", _indices(record.truncated, scored, "truncated")))
    if record.failed:
        headers.append(("x-opengte-failed", _indices(record.failed, scored, "failures")))
    if record.cached:
        headers.append(("x-opengte-cached", str(record.cached)))
    headers.append(("server-timing", _server_timing(record)))
    return headers


def _role(request: EmbedRequest, parsed: ParsedRequest) -> str:
    role = request.role or "none"
    given = parsed.role_given or request.instruction is not None or request.prompt_name is not None
    return role if given else f"{role}; assumed"


def _is_untrained(request: EmbedRequest, answer: EmbedAnswer | ScoreAnswer) -> bool:
    """Return whether vectors were cut to a size that the model was not trained for."""
    size, card = request.dimensions, answer.model
    return size not in (None, card.dimension) and not allows_dimension(card.dimensions, size)


def _indices(count: int, scored: Sequence[EmbedAnswer | ScoreAnswer], field: str) -> str:
    """Return a count and the indices of inputs, which run on over the parts of a request."""
    indices, offset = [], 0
    for answer in scored:
        indices += [str(offset + each.index) for each in getattr(answer, field)]
        offset += len(answer.token_counts)
    more = f"; more={count - MAX_INDICES}" if count > MAX_INDICES else ""
    return f"{count}; indices={','.join(indices[:MAX_INDICES])}{more}"


def _server_timing(record: RequestRecord) -> str:
    timing = record.timing
    return (
        f"tok;dur={timing.tokenizing * 1e3:.3f}, queue;dur={timing.queued * 1e3:.3f}, "
        f"compute;dur={timing.computing * 1e3:.3f}, total;dur={record.age() * 1e3:.3f}"
    )


def header_list(names: Sequence[str]) -> str:
    """Return names for a header: at most 20, each at most 40 characters, percent-encoded.

    >>> header_list(["user", "größe"])
    'user, gr%C3%B6%C3%9Fe'
    """
    shown = [quote(name[:40], safe="") for name in names[:20]]
    return ", ".join(shown) + (f", and {len(names) - 20} more" if len(names) > 20 else "")


def encode_headers(pairs: Sequence[tuple[str, Any]]) -> list[tuple[bytes, bytes]]:
    """Return headers as bytes; a value that is not printable ASCII is percent-encoded."""
    return [(name.encode("ascii"), _encode_value(value)) for name, value in pairs]


def _encode_value(value: str) -> bytes:
    if value.isascii() and value.isprintable():
        return value.encode("ascii")
    return quote(value, safe="/:;,=@+ ").encode("ascii")
