"""The journal of a resumable run: which run it is, and how far it came.

A journal is a file of JSON lines. The first line, the header, describes the run (model, options,
inputs); each further line records a finished piece of work. A line counts once it is complete: a
line that a kill cut short is removed when the journal is opened again.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs on one output are not told apart
    fcntl = None  # type: ignore[assignment]

from opengte.errors import InputError

HEAD = 2**20  # bytes at the start of an input file that its identity hashes
SHOWN = 5  # differences between two headers that an error lists

Entry = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Journal:
    """An open journal, locked by this process, and its entries after the header."""

    path: Path
    file: IO[bytes]
    entries: list[Entry]

    def record(self, entry: Entry) -> None:
        """Append an entry, flushed to disk before this returns."""
        line = json.dumps(entry)
        self.file.write(line.encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.entries.append(json.loads(line))


@contextmanager
def open_journal(path: Path, header: Entry, *, restart: bool = False) -> Iterator[Journal]:
    """Open the journal of a new run, or of the same run after it was killed.

    header holds everything that the run's result depends on; restart discards earlier entries. A
    run that recorded nothing is replaced by any other. Raises InputError if the file is no journal,
    if it belongs to a run with another header (the error lists the differences), or if another
    process holds it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "run.journal")
    >>> with open_journal(path, {"model": "gte"}) as journal:
    ...     journal.record({"rows": 10})
    >>> with open_journal(path, {"model": "gte"}) as journal:
    ...     journal.entries
    [{'rows': 10}]
    """
    with path.open("a+b") as file:
        _lock(file, path)
        file.seek(0)
        content = file.read()
        length = content.rfind(b"\n") + 1
        lines = [] if restart else _parse(path, content[:length])
        if lines[1:]:
            check_header(path, lines[0], header)
            file.truncate(length)
        else:
            file.truncate(0)
            file.write(json.dumps(header).encode() + b"\n")
        yield Journal(path, file, lines[1:])


def check_header(path: Path, old: Entry, new: Entry) -> None:
    """Raise InputError if two headers differ, with the first differences."""
    new = json.loads(json.dumps(new))
    differences = list(_differences(old, new, ""))
    if differences:
        raise InputError(
            f"`{path}` belongs to another run: {'; '.join(differences[:SHOWN])}. Use the same "
            "model, options and input to continue it, --restart to begin again, or another output"
        )


def not_a_journal(path: Path, error: Exception) -> InputError:
    """Return the error for a file that cannot be read as a journal."""
    return InputError(
        f"`{path}` is not the journal of a run ({error}). Remove it, or use --restart"
    )


def file_identity(path: Path) -> Entry:
    """Describe an input file for a header: its size, modification time and a hash of its head."""
    status = path.stat()
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(HEAD)).hexdigest()
    return {"size": status.st_size, "modified": status.st_mtime_ns, "head": head}


def _lock(file: IO[bytes], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"`{path}` is in use: another run is writing this output") from None


def _parse(path: Path, content: bytes) -> list[Entry]:
    try:
        lines = [json.loads(line) for line in content.splitlines()]
    except ValueError as error:
        raise not_a_journal(path, error) from error
    if not all(isinstance(line, dict) for line in lines):
        raise not_a_journal(path, ValueError("a line is not a JSON object"))
    return lines


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, f"{where}[{index}]")
    elif old != new:
        yield f"{where} was {_abbreviated(old)}, is now {_abbreviated(new)}"


def _abbreviated(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
