"""Logs: one line for each event, as JSON or for people, and never a client's text.

Messages of errors may quote what a client sent, so they are not logged: of an exception only the
class and the lines of code, of a warning only the class, of a request its measurements.
"""

import asyncio
import functools
import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, Literal

import orjson

from opengte.errors import CheckpointWarning, FallbackWarning

if TYPE_CHECKING:
    from opengte.serve.observability.request_record import RequestRecord

logger = logging.getLogger("opengte.serve")

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_UVICORN_NOISE = (
    "Started server process",
    "Finished server process",
    "Shutting down",
    "Waiting for",
)
_SAFE_WARNINGS = (CheckpointWarning, FallbackWarning)  # their messages name files and engines only


def configure(
    format: Literal["auto", "human", "json"] = "auto",
    level: str = "info",
    stream: IO[str] | None = None,
) -> None:
    """Send everything that this process logs to stderr (or the stream) in one format."""
    stream = stream or sys.stderr
    human = format == "human" or (format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Human() if human else _Json())
    handler.addFilter(_is_wanted)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in ("opengte", "uvicorn"):
        logging.getLogger(name).setLevel(_LEVELS[level])
    warnings.showwarning = log_warning
    # no line contains these: do not look them up
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def event(level: int, what: str, **fields: Any) -> None:
    """Log an event; fields are numbers, names and kinds, never a client's text."""
    if not logger.isEnabledFor(level):
        return
    # as logger.log does, but without looking up the calling line, a third of its time
    record = logging.LogRecord(logger.name, level, __file__, 0, what, (), None)
    record.__dict__["fields"] = fields
    logger.handle(record)


def failure(what: str, error: BaseException, **fields: Any) -> None:
    """Log an exception: its class and the lines of code of its traceback."""
    logger.error(what, exc_info=error, extra={"fields": fields})


def request(
    scope: Mapping[str, Any], record: "RequestRecord | None", status: int, seconds: float, sent: int
) -> None:
    """Log one request; sent are the bytes of the answer's body."""
    client = scope.get("client")
    fields: dict[str, Any] = {
        "request_id": record.request_id if record else None,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": round(seconds * 1e3, 3),
        "bytes": sent,
        "client": client[0] if client else None,
    }
    if record is not None:
        fields |= _measurements(record)
    level = logging.ERROR if status in (500, 424) else logging.INFO
    event(level, "request", **{name: value for name, value in fields.items() if value is not None})


def _measurements(record: "RequestRecord") -> dict[str, Any]:
    fields: dict[str, Any] = {"key": record.key, "error": record.error}
    if record.texts == 0:
        return fields
    timing = record.timing
    return fields | {
        "operation": record.operation,
        "protocol": record.protocol,
        "model": record.model,
        "priority": record.priority,
        "texts": record.texts,
        "tokens": record.tokens,
        "truncated": record.truncated or None,
        "failed": record.failed or None,
        "cached": record.cached or None,
        "tokenize_ms": round(timing.tokenizing * 1e3, 3),
        "queue_ms": round(timing.queued * 1e3, 3),
        "compute_ms": round(timing.computing * 1e3, 3),
    }


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception that nobody awaited (for `loop.set_exception_handler`)."""
    error = context.get("exception")
    fields = {"exc": type(error).__name__} if error is not None else {}
    logger.error("background task failed", exc_info=error, extra={"fields": fields})


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "event": _message(record),
            **_fields(record),
        }
        return _line(fields)


def _line(fields: dict[str, Any]) -> str:
    """Return JSON on one line, also for readers that split lines at other characters than \\n."""
    try:
        line = orjson.dumps(fields, default=str).decode()
        if line.isprintable():
            return line
    except TypeError:  # such as text with lone surrogates
        pass
    return json.dumps(fields, default=str)


class _Human(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        trace = fields.pop("trace", [])
        pairs = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return "\n  ".join([f"{stamp} {level}{_message(record)} {pairs}".rstrip(), *trace])


def _shown(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if any(c.isspace() or not c.isprintable() for c in text) else text


def _time(seconds: float) -> str:
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03d}Z"


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _message(record: logging.LogRecord) -> str:
    """Return the message of our code and uvicorn's; of other code only where it logged.

    asyncio, for example, logs the representation of a failed task, with the message of its error.
    """
    if record.name.startswith(("opengte", "uvicorn")):
        return record.getMessage().strip()
    return f"{record.name} logged at {record.module}:{record.lineno}"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    request = getattr(record, "request_id", None)
    named = {"request_id": request} if request else {}
    return {**named, **getattr(record, "fields", {}), **_exception(record)}


def _exception(record: logging.LogRecord) -> dict[str, Any]:
    if not record.exc_info or record.exc_info[1] is None:
        return {}
    error = record.exc_info[1]
    frames = traceback.extract_tb(error.__traceback__)
    chain = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    cause = {"cause": type(chain).__name__} if chain is not None else {}
    trace = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return {"exc": type(error).__name__, **cause, "trace": trace}


def _is_wanted(record: logging.LogRecord) -> bool:
    return not (record.name == "uvicorn.error" and record.getMessage().startswith(_UVICORN_NOISE))


def log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Log a warning by its kind; its text too where it cannot quote what a client sent."""
    fields: dict[str, Any] = {"kind": category.__name__, "place": f"{filename}:{lineno}"}
    if issubclass(category, _SAFE_WARNINGS):
        fields["says"] = str(message)
    logger.warning("warning", extra={"fields": fields})
