"""Walk folders in order, follow each link once, and turn every path into an id."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

IGNORED = frozenset(
    {"__pycache__", "node_modules", "$RECYCLE.BIN", "__MACOSX", "System Volume Information"}
)
HIDDEN, TOOLS = "hidden", "a folder of a tool"


@dataclass(frozen=True)
class FoundFile:
    """A file to read; named: the caller asked for this very file."""

    path: str
    named: bool


@dataclass(frozen=True)
class SkippedPath:
    """What the walk could not look into, or saw already."""

    path: str
    reason: str
    failed: bool


def walk_files(paths: Iterable[str], *, named: bool = True) -> Iterator[FoundFile | SkippedPath]:
    """Yield the files of files and folders, in the order of their names, as absolute paths.

    Hidden files and folders, and those of tools, are skipped, as is the folder of an index. A
    folder that is reached twice, through a link or a cycle, is entered once. A path that does
    not exist has no files.
    """
    entered: dict[tuple[int, int], str] = {}
    for path in paths:
        whole = os.path.abspath(path)
        if os.path.isdir(whole):
            yield from _folder(whole, entered)
        elif os.path.lexists(whole):
            yield FoundFile(whole, named=named)


def has_files(path: str) -> bool:
    """Return whether a walk of a path comes to any file."""
    return any(isinstance(one, FoundFile) for one in walk_files([path]))


def _folder(top: str, entered: dict[tuple[int, int], str]) -> Iterator[FoundFile | SkippedPath]:
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
            identity = status.st_dev, status.st_ino
            if identity in entered:
                if entered[identity] != folder:
                    yield SkippedPath(folder, "the same folder was reached before", failed=False)
                continue
            entered[identity] = folder
            if os.path.exists(os.path.join(folder, INDEX_MARKER)):
                yield SkippedPath(folder, "an index", failed=False)
                continue
            names = sorted(os.listdir(folder))
        except OSError as error:
            yield SkippedPath(folder, error.strerror or str(error), failed=True)
            continue
        inside = []
        for name in names:
            path = os.path.join(folder, name)
            kind = skip_reason(name) or _kind(path)
            if kind == "folder":
                inside.append(path)
            elif kind == "file":
                yield FoundFile(path, named=False)
            else:
                yield SkippedPath(path, kind, failed=False)
        waiting.extend(reversed(inside))


def _kind(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return "a broken link" if os.path.islink(path) else error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "not a regular file"


def ignored_path(path: str) -> str:
    """Return why a path inside an archive is not looked at, "" if it is."""
    parts = [one for one in path.split("/") if one not in ("", ".", "..")]
    return next(filter(None, map(skip_reason, parts)), "")


def skip_reason(name: str) -> str:
    """Return why a file or folder is not looked at, "" if it is."""
    return HIDDEN if name.startswith((".", "~$")) else TOOLS if name in IGNORED else ""


INDEX_MARKER = "opengte-kb.json"  # a file in the folder of every index on a disk

_KEPT = frozenset(chr(code) for code in range(0x20, 0x7F)) - {"%", "#"}


def path_to_id(path: str) -> str:
    """Return a path as text that is valid everywhere, one to one: odd bytes as %XX."""
    if all(character in _KEPT for character in path):
        return path
    parts = []
    for character in path:
        odd = character in "%#\x7f" or character < " " or "\ud800" <= character <= "\udfff"
        parts.append("".join(f"%{b:02X}" for b in os.fsencode(character)) if odd else character)
    return "".join(parts)


def path_of(identity: str) -> str:
    """Return the path that `path_to_id` wrote as this."""
    return os.fsdecode(unquote_to_bytes(identity)) if "%" in identity else identity


def is_inside(identity: str, scopes: Iterable[str]) -> bool:
    """Return whether a file is one of these files or in one of these folders."""
    return any(
        identity == scope or identity.startswith(scope.rstrip("/") + "/") for scope in scopes
    )
