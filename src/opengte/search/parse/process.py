"""Parse files in a child process, which is replaced if it dies; the child is `worker`."""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from opengte.search.parse.base import (
    ParsedDocument,
    ParsedItem,
    ParseLimits,
    ParseProblem,
    RowFields,
    Section,
)


class ParserProcess:
    """Parses files in a child process, one at a time; a context manager that ends it."""

    def __init__(self, limits: ParseLimits | None = None, fields: RowFields | None = None) -> None:
        self.limits = limits or ParseLimits()
        self.fields = fields or RowFields()
        self.command = [sys.executable, "-m", "opengte.search.parse.worker"]
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ParserProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def parse(self, path: str, kind: str) -> Iterator[ParsedItem | str]:
        """Yield documents and problems of a file, then the SHA-256 of what was parsed or ""."""
        finished = False
        try:
            self._ask(path, kind)
            while not finished:
                frame = self._frame()
                if frame is None:
                    yield ParseProblem(self._death())
                    yield ""
                    finished = True
                elif "end" in frame:
                    yield str(frame["end"])
                    finished = True
                else:
                    yield _item(frame)
        finally:
            if not finished:  # the caller went away: the rest of this file must not be read as next
                self.close()

    def _ask(self, path: str, kind: str) -> None:
        request = {
            "path": os.fsencode(path).hex(),
            "kind": kind,
            "limits": asdict(self.limits),
            "fields": asdict(self.fields),
        }
        line = json.dumps(request).encode() + b"\n"
        for _ in range(2):  # once more where the child died after its last answer
            pipe = self._started().stdin
            assert pipe is not None
            try:
                pipe.write(line)
                pipe.flush()
                return
            except BrokenPipeError:
                self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        return self._child

    def _frame(self) -> dict[str, Any] | None:
        """Return the next frame, None if the child is dead."""
        child = self._child
        if child is None or child.stdout is None:
            return None
        head = child.stdout.read(4)
        if len(head) < 4:
            return None
        (length,) = struct.unpack("<I", head)
        content = child.stdout.read(length)
        if len(content) < length:
            return None
        frame: dict[str, Any] = json.loads(content)
        return frame

    def _death(self) -> str:
        """Say why the child died, and forget it."""
        child = self._child
        code = child.wait() if child else 0
        self.close()
        if code == -signal.SIGALRM:
            return f"took longer than {self.limits.seconds:g} s to parse"
        if code < 0:
            return f"ended its parser with {signal.Signals(-code).name}"
        return f"ended its parser with status {code}"


def _item(frame: dict[str, Any]) -> ParsedItem:
    if "problem" in frame:
        return ParseProblem(**frame["problem"])
    values = frame["document"]
    values["sections"] = tuple(Section(**one) for one in values["sections"])
    values["warnings"] = tuple(values["warnings"])
    return ParsedDocument(**values)
