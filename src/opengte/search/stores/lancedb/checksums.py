"""Checksums of the files of a generation, which LanceDB never changes once they are written.

Lance files hold none of their own, so a flipped bit is read as if it were right. A line for each
new file is added after every commit. A file may have several lines, where another process was still
writing it when it was first seen: it is whole if one of them fits.

The settings and the newest manifest of each table, without which nothing else can be read, are kept
twice.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from opengte.atomic_files import atomic_write

CHECKSUMS, COPIES, SETTINGS_COPY = "checksums.jsonl", "copies", "settings.json"
UNCHECKED = (CHECKSUMS, "latest_version_hint.json")  # files that change
Entry = tuple[int, str]  # bytes, SHA-256


def table_files(folder: str) -> Iterator[str]:
    """Yield the files of all tables of a generation that never change, relative to it."""
    for root, folders, names in os.walk(folder):
        if root == folder and COPIES in folders:
            folders.remove(COPIES)
        for name in sorted(names):
            if name not in UNCHECKED:
                yield os.path.relpath(os.path.join(root, name), folder)


def read_checksums(folder: str) -> dict[str, set[Entry]]:
    """Return what is recorded of each file; lines that cannot be read are passed over."""
    found: dict[str, set[Entry]] = {}
    with (
        contextlib.suppress(FileNotFoundError),
        open(os.path.join(folder, CHECKSUMS), "rb") as file,
    ):
        for line in file:
            with contextlib.suppress(ValueError, TypeError):
                path, size, digest = json.loads(line)
                found.setdefault(str(path), set()).add((int(size), str(digest)))
    return found


def journal_problem(folder: str) -> str | None:
    """Return what is wrong with the recorded checksums, None if nothing is."""
    if not os.path.exists(os.path.join(folder, CHECKSUMS)):
        return "missing" if os.path.isdir(os.path.join(folder, COPIES)) else None
    with open(os.path.join(folder, CHECKSUMS), "rb") as file:
        lines = file.read().splitlines()
    bad = len(lines) - sum(map(_is_entry, lines))
    return f"{bad:,} of {len(lines):,} lines cannot be read" if bad else None


def _is_entry(line: bytes) -> bool:
    try:
        name, size, digest = json.loads(line)
    except (ValueError, TypeError):
        return False
    return isinstance(name, str) and isinstance(size, int) and len(digest) == 64


def renew(folder: str) -> None:
    """Write the journal anew: what is recorded of files, and what they are where nothing is."""
    known = read_checksums(folder)
    _write(folder, known)
    record(folder, [name for name in table_files(folder) if name not in known])


def record(folder: str, names: Iterable[str]) -> None:
    """Add the checksums of files to those of a generation."""
    lines = []
    for name in names:
        with contextlib.suppress(OSError):  # another process tidied it away
            size, digest = checksum(os.path.join(folder, name))
            lines.append(json.dumps([name, size, digest]) + "\n")
    if lines:
        with open(os.path.join(folder, CHECKSUMS), "ab", buffering=0) as file:
            file.write("".join(lines).encode())  # one write: others add to it at the same time


def rewrite(folder: str) -> None:
    """Leave out the lines of files that are gone, where they are most."""
    kept, there = read_checksums(folder), set(table_files(folder))
    if len(kept) > 2 * len(there) + 100:
        _write(folder, {name: kept[name] for name in kept.keys() & there})


def _write(folder: str, known: Mapping[str, set[Entry]]) -> None:
    with atomic_write(_path(folder, CHECKSUMS)) as part, open(part, "w") as file:
        for name in sorted(known):
            file.writelines(json.dumps([name, *one]) + "\n" for one in sorted(known[name]))


def checksum(path: str) -> Entry:
    """Return the size and the SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def wrong_sizes(folder: str) -> list[str]:
    """Return the files that have another size than was written; costs a look at each."""
    found = []
    for name, entries in read_checksums(folder).items():
        with contextlib.suppress(OSError):
            if os.stat(os.path.join(folder, name)).st_size not in {size for size, _ in entries}:
                found.append(name)
    return found


# --- copies --------------------------------------------------------------------------------------


def keep_manifest(folder: str, name: str) -> None:
    """Keep a manifest twice, in place of the one before of the same table."""
    table = name.partition(os.sep)[0]
    place = os.path.join(folder, COPIES, table)
    os.makedirs(place, exist_ok=True)
    base = os.path.basename(name)
    with contextlib.suppress(OSError):
        with atomic_write(_path(place, base)) as part:
            shutil.copyfile(os.path.join(folder, name), part)
        for other in os.listdir(place):
            if other.endswith(".manifest") and version_of(other) < version_of(base):
                os.unlink(os.path.join(place, other))


def version_of(name: str) -> int:
    """Return the version of a manifest; newer ones have smaller numbers in their names."""
    number = int(name.partition(".")[0])
    return 2**64 - 1 - number if number > 2**63 else number


def keep_settings(folder: str, settings: Mapping[str, Any]) -> None:
    """Keep the settings twice."""
    place = os.path.join(folder, COPIES)
    os.makedirs(place, exist_ok=True)
    text = json.dumps(dict(settings))
    row = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "settings": text}
    with atomic_write(_path(place, SETTINGS_COPY)) as part:
        part.write_text(json.dumps(row))


def kept_settings(folder: str) -> dict[str, Any] | None:
    """Return the second copy of the settings, None where it is damaged or was never made."""
    try:
        with open(os.path.join(folder, COPIES, SETTINGS_COPY), encoding="utf-8") as file:
            row = json.load(file)
        if hashlib.sha256(row["settings"].encode()).hexdigest() != row["sha256"]:
            return None
        values: dict[str, Any] = json.loads(row["settings"])
        return values
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _path(folder: str, name: str) -> Path:
    return Path(folder) / name
