"""What is damaged in a generation of an index in a folder, and what can still be read of it.

Lance reads a fragment of a table, or fails. So a table whose files are damaged is read fragment by
fragment, as its manifest lists them: Apache Arrow's Lance format, `table.proto` and `file2.proto`.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from opengte.errors import DamagedIndexError, OpenGTEError
from opengte.search.stores.lancedb import checksums

PART = 256  # rows that are read at once
NO_PERMISSION = "no permission to read"
TABLES = ("settings", "sources", "windows")
KINDS = {  # folder of a table -> what is in it
    "data": "data",
    "_deletions": "list of removed rows",
    "_indices": "search index",
    "_versions": "manifest",
    "_transactions": "record of a commit",
}


@dataclass(frozen=True)
class DamagedFile:
    """A file that is not as it was written; kind is one of the values of KINDS."""

    path: str  # relative to the generation
    kind: str
    reason: str


@dataclass(frozen=True)
class Fragment:
    """A part of a table: its number, its rows, the files that it needs."""

    number: int
    rows: int
    files: tuple[str, ...]


def damaged_files(folder: str) -> list[DamagedFile]:
    """Read every file of a generation, and return those that are not as they were written."""
    found, known = [], checksums.read_checksums(folder)
    there = set(checksums.table_files(folder))
    for name in sorted(there):
        reason = _wrong(os.path.join(folder, name), known.get(name))
        if reason:
            found.append(DamagedFile(name, _kind(name), reason))
    bad = {one.path for one in found}
    for table in TABLES:
        if not any(name.startswith(f"{table}.lance{os.sep}") for name in there):
            found.append(DamagedFile(f"{table}.lance", "manifest", "missing"))
            continue
        manifest = newest_manifest(folder, table)
        copies = os.path.join(folder, checksums.COPIES, f"{table}.lance")
        kept = [x for x in _listed(copies) if x.endswith(".manifest")]
        newest = max(map(checksums.version_of, kept), default=0)
        if manifest and newest > checksums.version_of(os.path.basename(manifest)):
            found.append(DamagedFile(f"{table}.lance/_versions", "manifest", "missing"))
        elif manifest is None:
            found.append(DamagedFile(f"{table}.lance/_versions", "manifest", "missing"))
        elif manifest not in bad:
            needed = [x for one in fragments(folder, manifest) for x in one.files]
            found += [DamagedFile(x, _kind(x), "missing") for x in needed if x not in there]
    return found


def _wrong(path: str, entries: set[checksums.Entry] | None) -> str | None:
    try:
        if not os.stat(path).st_mode & 0o400:
            return NO_PERMISSION
        size, digest = checksums.checksum(path)
    except OSError as error:
        return error.strerror or str(error)
    if entries is None or (size, digest) in entries:
        return None
    sizes = {one for one, _ in entries}
    if size in sizes:
        return "its checksum is wrong"
    return f"{size:,} bytes, {max(sizes):,} were written"


def _kind(name: str) -> str:
    parts = name.split(os.sep)
    return KINDS.get(parts[1], "data") if len(parts) > 1 else "data"


# --- manifests -----------------------------------------------------------------------------------


def newest_manifest(folder: str, table: str) -> str | None:
    """Return the manifest of the newest version of a table, relative to the generation."""
    place = os.path.join(f"{table}.lance", "_versions")
    names = [x for x in _listed(os.path.join(folder, place)) if x.endswith(".manifest")]
    names = [x for x in names if x.partition(".")[0].isdigit()]
    return os.path.join(place, max(names, key=checksums.version_of)) if names else None


def _listed(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def fragments(folder: str, manifest: str) -> list[Fragment]:
    """Return the fragments that a manifest lists; none of one that cannot be read."""
    table = manifest.partition(os.sep)[0]
    try:
        with open(os.path.join(folder, manifest), "rb") as file:
            content = file.read()
        start = int.from_bytes(content[-16:-8], "little")
        length = int.from_bytes(content[start : start + 4], "little")
        body = content[start + 4 : start + 4 + length]
        return [_fragment(table, value) for tag, value in _fields(body) if tag == 2]
    except (OSError, ValueError, IndexError, TypeError):
        return []


def _fragment(table: str, message: Any) -> Fragment:
    number, rows, files = 0, 0, []
    for tag, value in _fields(message):
        if tag == 1:
            number = value
        elif tag == 4:
            rows = value
        elif tag == 2:
            name = next(bytes(x).decode() for t, x in _fields(value) if t == 1)
            files.append(os.path.join(table, "data", _with_suffix(name)))
        elif tag == 3:
            of = dict(_fields(value))
            end = "bin" if of.get(1) else "arrow"
            name = f"{number}-{of.get(2, 0)}-{of.get(3, 0)}.{end}"
            files.append(os.path.join(table, "_deletions", name))
    return Fragment(number, rows, tuple(files))


def _with_suffix(name: str) -> str:
    return name if name.endswith(".lance") else f"{name}.lance"


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the tag and the value of each field of a protocol buffer."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
            continue
        length = {1: 8, 2: None, 5: 4}[key & 7] if key & 7 in (1, 2, 5) else -1
        if length == -1:
            raise ValueError(f"wire type {key & 7}")
        size = number() if length is None else length
        yield key >> 3, message[at : at + size]
        at += size


# --- reading what is left ------------------------------------------------------------------------


def restore_manifests(folder: str, damaged: list[DamagedFile]) -> None:
    """Put the second copies of manifests in the place of damaged ones."""
    for one in damaged:
        if one.kind == "manifest":
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, one.path))
    for table in TABLES:
        copies = os.path.join(folder, checksums.COPIES, f"{table}.lance")
        for name in _listed(copies):
            place = os.path.join(folder, f"{table}.lance", "_versions", name)
            if name.endswith(".manifest") and not os.path.exists(place):
                newest = newest_manifest(folder, table)
                mine = checksums.version_of(name)
                if not newest or checksums.version_of(os.path.basename(newest)) < mine:
                    os.makedirs(os.path.dirname(place), exist_ok=True)
                    shutil.copyfile(os.path.join(copies, name), place)


def readable_rows(
    folder: str, table: str, opened: Any, bad: set[str]
) -> Iterator[tuple[Any, bool]]:
    """Yield the rows (Arrow) of a table, and whether all their files are right.

    In place of rows that cannot be read comes how many those are.
    """
    manifest = newest_manifest(folder, table)
    for one in fragments(folder, manifest) if manifest else ():
        sound = not bad.intersection(one.files)
        for start in range(0, one.rows, PART):
            end = min(start + PART, one.rows)
            numbers = [(one.number << 32) | row for row in range(start, end)]
            try:
                rows = opened.take_row_ids(numbers).to_arrow()
            except Exception:  # of a damaged file; the others are read
                yield one.rows - start, False
                break
            except BaseException as error:  # a panic of the Rust code is no Exception
                if type(error).__name__ != "PanicException":
                    raise
                yield one.rows - start, False
                break
            yield rows, sound


# --- errors --------------------------------------------------------------------------------------


def explain_damage(error: BaseException, place: str, folder: str | None) -> OpenGTEError | None:
    """Return the error that a person can use of one that Lance raised, None of any other."""
    text = " ".join(str(error).split())
    ours = isinstance(error, OpenGTEError) or not re.search(r"lance|arrow", text, re.IGNORECASE)
    if ours or re.search("No space left|Permission denied|Read-only|os error (28|30)", text):
        return None
    wrong = checksums.wrong_sizes(folder) if folder else []
    named = re.search(r"[\w./-]+\.(?:lance|manifest|arrow|bin|txn)\b", text)
    what = wrong[0] if wrong else named.group() if named else text[:120]
    return damaged_error(place, f"`{what}` is cut off" if wrong else f"cannot read `{what}`")


def damaged_error(place: str, what: str) -> DamagedIndexError:
    """Return the error of a damaged index, which names what mends it."""
    return DamagedIndexError(
        f"the index `{place}` is damaged: {what}; `gte index check {place}` mends it"
    )
