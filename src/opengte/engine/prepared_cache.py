"""The folder of prepared weights: what is in it, what is damaged, and what goes for want of room.

A file ends with a trailer, which names the model and has the SHA-256 of what is before it. A file
may be removed while it is mapped: its pages stay until the last process that uses it ends.
"""

import contextlib
import hashlib
import json
import logging
import mmap
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opengte import hub
from opengte.errors import InputError
from opengte.hub.disk import parse_size

log = logging.getLogger(__name__)

TRAILER = mmap.PAGESIZE
LIMIT = 10 << 30  # bytes of all files together
VARIABLE = "OPENGTE_CACHE_LIMIT"
ABANDONED = 86400  # seconds after which an unfinished file is taken for that of a dead process

_NAME = re.compile(r"[0-9a-f]{32}-(\w+)-(\w+)-(\d+)(\.weights|\.precision\.json)")


@dataclass(frozen=True)
class PreparedFile:
    """A file of prepared weights; model is None in formats that did not name it."""

    path: Path
    model: str | None
    precision: str
    isa: str
    format: int
    size: int
    used: float  # seconds since 1970, when it was last mapped


def prepared_folder() -> Path:
    """Return the folder of prepared weights."""
    return hub.cache_root() / "prepared"


def size_limit() -> int:
    """Return how many bytes prepared weights may take: `$OPENGTE_CACHE_LIMIT`, or 10 GiB."""
    text = os.environ.get(VARIABLE)
    try:
        return parse_size(text) if text else LIMIT
    except ValueError:
        raise InputError(f"{VARIABLE} is {text!r}, expected a size such as `10GB`") from None


def prepared_files(folder: Path) -> list[PreparedFile]:
    """Return the files of prepared weights, the one that was used last first."""
    found = []
    for path, match in _matching(folder):
        if match[4] != ".weights":
            continue
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            state = path.stat()
            model = _read_trailer(path).get("model")
            place = path, model, match[1], match[2], int(match[3])
            found.append(PreparedFile(*place, state.st_size, state.st_mtime))
    return sorted(found, key=lambda file: (-file.used, file.path))


def is_intact(file: PreparedFile) -> bool:
    """Read a file whole and return whether its contents are those that were written."""
    expected = _read_trailer(file.path).get("sha256")
    digest, rest = hashlib.sha256(), file.size - TRAILER
    with file.path.open("rb") as opened:
        while rest > 0 and (chunk := opened.read(min(rest, 1 << 20))):
            digest.update(chunk)
            rest -= len(chunk)
    return digest.hexdigest() == expected


def prune(files: Sequence[PreparedFile], limit: int) -> list[PreparedFile]:
    """Remove the files that were not used for longest, until the rest fits; return the removed.

    files are as `prepared_files` returns them.
    """
    total, removed = sum(file.size for file in files), []
    for file in reversed(files):
        if total > limit and remove(file.path):
            total -= file.size
            removed.append(file)
    return removed


def make_room(folder: Path, new: Path, format: int) -> None:
    """After a file was written, remove those of older formats, and others beyond the limit."""
    for path, match in _matching(folder):
        if int(match[3]) < format:
            remove(path)
    for path in folder.glob(".preparing-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                remove(path)
    files = prepared_files(folder)
    newest = [file for file in files if file.path == new]
    others = [file for file in files if file.path != new]
    for file in prune(others, max(0, size_limit() - sum(file.size for file in newest))):
        log.info("removed %s: prepared weights take more than %s", file.path, VARIABLE)


def mark_used(path: Path) -> None:
    """Note that a file is in use now; nothing where the file is another user's."""
    with contextlib.suppress(OSError):
        os.utime(path)


def remove(path: Path) -> bool:
    """Remove a file; return whether it is gone. Some systems keep one that is mapped."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error)
        return False
    return True


def trailer(mapped: mmap.mmap, model: str) -> bytes:
    """Return the trailer of a file whose other bytes are written."""
    with memoryview(mapped) as whole, whole[:-TRAILER] as contents:
        digest = hashlib.sha256(contents).hexdigest()
    return json.dumps({"sha256": digest, "model": model[:500]}).encode().ljust(TRAILER)


def _matching(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [(path, match) for path in paths if (match := _NAME.fullmatch(path.name))]


def _read_trailer(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            file.seek(-TRAILER, os.SEEK_END)
            found = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
