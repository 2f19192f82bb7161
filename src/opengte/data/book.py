"""The journal of a run that may be killed: what it is, and what of it is done. A line each."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs on one folder are not told apart
    fcntl = None  # type: ignore[assignment]

from opengte.errors import InputError

Line = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Journal:
    """An open journal, held by this process alone, and its lines so far."""

    file: IO[bytes]
    lines: list[Line]

    def record(self, line: Line) -> None:
        """Add a line, for good: on disk before this returns."""
        self.file.write(json.dumps(line).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.lines.append(json.loads(json.dumps(line)))


@contextmanager
def opened(path: Path, header: Line, *, restart: bool) -> Iterator[Journal]:
    """Open the journal of a run, new or left by the same run when it was killed.

    InputError for a journal of another run, saying what differs, or of a run that is alive.
    """
    with path.open("a+b") as file:
        _lock(file, path)
        file.seek(0)
        content = file.read()
        length = content.rfind(b"\n") + 1
        lines = _parsed(path, content[:length]) if not restart else []
        if lines:
            check(path, lines[0], header)
            file.truncate(length)
        else:
            file.truncate(0)
            file.write(json.dumps(header).encode() + b"\n")
        yield Journal(file, lines[1:])


def check(path: Path, old: Line, new: Line) -> None:
    """Refuse to continue a run that was started differently."""
    new = json.loads(json.dumps(new))
    different = list(_different(old, new, ""))
    if different:
        raise InputError(
            f"`{path}` belongs to another run: {'; '.join(different[:5])}. Repeat that run's "
            "command to continue it, restart to begin again, or write to another folder"
        )


def _different(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _different(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _different(*pair, f"{where}[{index}]")
    elif old != new:
        yield f"{where} was {_short(old)}, is now {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


def _parsed(path: Path, content: bytes) -> list[Line]:
    try:
        return [json.loads(line) for line in content.splitlines()]
    except ValueError as error:
        raise InputError(
            f"`{path}` is not the journal of a run ({error}). Remove it, or restart"
        ) from error


def _lock(file: IO[bytes], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"`{path}` is in use: another run is writing there") from None
