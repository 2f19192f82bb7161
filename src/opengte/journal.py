"""Where a killed run stopped, and whether this is the same run.

Beside OUTPUT lie, while it is being written, its part files and OUTPUT.journal: a first line that
says what the run is (model, options, input), then one line per window with how far it came. A
window counts once its line is complete; whatever was written after it is cut off.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs on one output are not told apart
    fcntl = None  # type: ignore[assignment]

from opengte.errors import InputError

HEAD = 2**20  # bytes of an input file that its identity covers

Header = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a run came: input rows seen, what became of them, bytes in each part file."""

    seen: int = 0
    written: int = 0
    failed: int = 0
    truncated: int = 0
    repaired: int = 0
    tokens: int = 0
    offsets: tuple[int, ...] = ()
    complete: bool = False

    def plus(self, other: "Progress") -> "Progress":
        """Add the counts and offsets of one more window."""
        counts = ("seen", "written", "failed", "truncated", "repaired", "tokens")
        sums = {name: getattr(self, name) + getattr(other, name) for name in counts}
        offsets = tuple(a + b for a, b in zip(self.offsets, other.offsets, strict=True))
        return replace(self, offsets=offsets, **sums)


@dataclass(frozen=True, eq=False)
class Journal:
    """An open journal, held by this process alone, and what it said when it was opened."""

    path: Path
    file: IO[bytes]
    progress: Progress | None

    def record(self, progress: Progress) -> None:
        """Add a window, for good: on disk before this returns."""
        self.file.write(json.dumps(asdict(progress)).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())


@contextmanager
def opened(path: Path, header: Header, *, restart: bool) -> Iterator[Journal]:
    """Open the journal of a run, new or left by the same run when it was killed.

    Raises InputError for a journal of another run, saying what differs, or of a run that is alive.
    """
    with path.open("a+b") as file:
        _lock(file, path)
        lines, length = _whole_lines(file)
        if lines and not restart:
            known, progress = _parsed(path, lines)
            _check(path, known, header)
            file.truncate(length)
        else:
            progress = None
            file.truncate(0)
            file.write(json.dumps(header).encode() + b"\n")
        yield Journal(path, file, progress)


def identity(path: Path) -> Header:
    """Describe an input file: size, time of change, and a hash of its head."""
    status = path.stat()
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(HEAD)).hexdigest()
    return {"size": status.st_size, "modified": status.st_mtime_ns, "head": head}


def sync_folder(path: Path) -> None:
    """Make a rename in a folder survive a power cut, where the system can."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(file: IO[bytes], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"`{path}` is in use: another run is writing this output") from None


def _whole_lines(file: IO[bytes]) -> tuple[list[bytes], int]:
    """Return the lines that are complete, and where they end."""
    file.seek(0)
    content = file.read()
    length = content.rfind(b"\n") + 1
    return content[:length].splitlines(), length


def _parsed(path: Path, lines: list[bytes]) -> tuple[Header, Progress | None]:
    try:
        header, last = json.loads(lines[0]), json.loads(lines[-1])
        if len(lines) == 1:
            return header, None
        return header, Progress(**(last | {"offsets": tuple(last["offsets"])}))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"`{path}` is not the journal of a run ({error}). Remove it, or use --restart"
        ) from error


def _check(path: Path, old: Header, new: Header) -> None:
    """Refuse to continue a run that was started differently."""
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if keys:
        changes = "; ".join(
            f"{key} was {_shown(old, key)}, is now {_shown(new, key)}" for key in keys
        )
        raise InputError(
            f"`{path}` belongs to another run: {changes}. Use the same model, options and input to "
            "continue it, or --restart to begin again"
        )


def _shown(header: Header, key: str) -> str:
    return json.dumps(header[key], ensure_ascii=False) if key in header else "not set"
