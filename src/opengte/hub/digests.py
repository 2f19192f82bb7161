"""The SHA-256 of files, each read once: remembered until the file changes.

The digests are in one file of the cache folder, by path. A digest holds as long as the size, the
times and the inode of its file stay; where the folder cannot be written, files are read each time.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from opengte.hub import disk
from opengte.hub.cache_paths import cache_root

MOST = 4096  # digests that are remembered; the oldest are forgotten
RECENT = 2_000_000_000  # nanoseconds: a file that changed just now could change again unnoticed


class FileState(NamedTuple):
    """What changes when a file is written or replaced; a link stands for its target."""

    size: int
    modified: int  # nanoseconds
    changed: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Return the present state of a file."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    def same_contents(self, other: "FileState") -> bool:
        """Return whether nothing was written in between; a new owner or link changes nothing."""
        return self._replace(changed=0) == other._replace(changed=0)


class FileDigest(NamedTuple):
    """The SHA-256 of a file's bytes, and the state in which they were read."""

    sha256: str
    state: FileState


def file_digests(paths: Sequence[Path]) -> list[FileDigest]:
    """Return the digests of files; reads those that changed, several at a time.

    If a file is written while it is read, its digest is empty and its state the one afterwards.
    """
    paths = [path.resolve() for path in paths]
    states = [FileState.of(path) for path in paths]
    known = _remembered()
    found = {
        path: FileDigest(digest, state)
        for path, state in zip(paths, states, strict=True)
        if (digest := _known_digest(path, state, known))
    }
    missing = [path for path in dict.fromkeys(paths) if path not in found]
    if missing:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as pool:
            found |= zip(missing, pool.map(read_digest, missing), strict=True)
        _remember({path: found[path] for path in missing})
    return [found[path] for path in paths]


def _known_digest(path: Path, state: FileState, known: dict[str, Any]) -> str | None:
    if disk.is_verified(path, path.name):  # a large file in the cache of the Hub is named by it
        return path.name
    entry = known.get(str(path))
    if not isinstance(entry, list) or entry[1:] != list(state) or not disk.is_sha256(entry[0]):
        return None
    return str(entry[0])


def read_digest(path: Path) -> FileDigest:
    """Read a file to its end and return its SHA-256 with the state that it had."""
    before = FileState.of(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    after = FileState.of(path)
    return FileDigest(digest, before) if after.same_contents(before) else FileDigest("", after)


def _path() -> Path:
    return cache_root() / "digests.json"


def _remembered() -> dict[str, Any]:
    try:
        known = json.loads(_path().read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(found: dict[Path, FileDigest]) -> None:
    """Add digests to the file. Of two processes at once, one may have to read its files again."""
    now = time.time_ns()
    settled = {
        str(path): [digest, *state]
        for path, (digest, state) in found.items()
        if digest and not 0 <= now - state.modified < RECENT
    }
    if not settled:
        return
    known = {path: entry for path, entry in _remembered().items() if path not in settled}
    kept = list((known | settled).items())[-MOST:]
    try:
        disk.write_atomically(_path(), json.dumps(dict(kept)))
    except OSError:
        pass  # without the record, the files are only read again next time
