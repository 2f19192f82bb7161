"""The child process that parses files: reads requests from stdin, writes documents to stdout.

A frame is four bytes of length and JSON. An alarm ends a parser that loops, an address-space limit
one that uses too much memory: the process dies, the file is reported, a new process continues.
"""

import contextlib
import json
import logging
import os
import signal
import struct
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, BinaryIO

from opengte.errors import MissingExtraError, OpenGTEError
from opengte.search.parse.base import (
    ParsedDocument,
    ParsedItem,
    ParseLimits,
    ParseProblem,
    ParseProgress,
    RowFields,
    UnreadableFileError,
)
from opengte.search.parse.formats import parse_file

Frame = dict[str, Any]


def serve_requests(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    limits: ParseLimits | None = None
    for line in requests:
        request = json.loads(line)
        if limits is None:
            limits = ParseLimits(**request["limits"])
            _limit_memory(limits.memory_bytes)
        fields = RowFields(**request["fields"])
        path = os.fsdecode(bytes.fromhex(request["path"]))
        for frame in _frames(path, request["kind"], limits, fields):
            _send(answers, frame)


def _frames(path: str, kind: str, limits: ParseLimits, fields: RowFields) -> Iterator[Frame]:
    """Yield a frame for each document and problem, then one that ends the file."""
    digest, items = "", parse_file(path, kind, limits, fields)
    while True:
        try:
            with _alarm(limits.seconds):
                item = next(items)
        except StopIteration:
            break
        except MissingExtraError as error:
            yield _framed(ParseProblem(str(error), failed=False, retry=True))
            break
        except Exception as error:
            yield _framed(ParseProblem(_reason(error, limits)))
            break
        if isinstance(item, str):
            digest = item
        elif not isinstance(item, ParseProgress):
            yield _framed(item)
    yield {"end": digest}


def _reason(error: Exception, limits: ParseLimits) -> str:
    match error:
        case UnreadableFileError() | OpenGTEError():
            return str(error)
        case MemoryError():
            return f"needs more than {limits.memory_bytes:,} bytes of memory to parse"
        case OSError():
            return error.strerror or str(error)
    return f"cannot be parsed ({type(error).__name__}: {str(error)[:200]})"


def _framed(item: ParsedItem) -> Frame:
    return {"document" if isinstance(item, ParsedDocument) else "problem": asdict(item)}


def _send(answers: BinaryIO, frame: Frame) -> None:
    content = json.dumps(frame, ensure_ascii=True).encode("ascii")
    answers.write(struct.pack("<I", len(content)))
    answers.write(content)
    answers.flush()


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer, even inside a library that never returns."""
    if not hasattr(signal, "setitimer"):  # not a POSIX system
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_memory(count: int) -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Serve the parent process; what libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(BrokenPipeError):
        serve_requests(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
