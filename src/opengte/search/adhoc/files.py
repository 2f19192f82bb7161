"""Read the texts of files and folders, and report what was skipped and why.

Reads plain text (.txt .md .rst .py), HTML without its markup, the strings of JSON, and those of
JSON Lines, CSV and TSV, where each row is a document. One file is held in memory at a time, and
none over the limit.
"""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from opengte.delimited import BadRow, DelimitedRow, read_delimited
from opengte.search.parse.base import json_strings
from opengte.search.parse.html import TextExtractor

MAX_BYTES = 16 * 2**20
SNIFFED = 8192  # bytes in which a NUL marks a file as binary


@dataclass(frozen=True)
class FileText:
    """A text, the file it is in and, where a file holds several, its line (from 1)."""

    path: Path
    line: int | None
    text: str


@dataclass(frozen=True)
class SkippedText:
    """A file or line that gave no document, or not all of it; `failed`: it should have."""

    path: Path
    line: int | None
    reason: str
    failed: bool


FileItem = FileText | SkippedText


def read_texts(paths: Iterable[Path], max_bytes: int = MAX_BYTES) -> Iterator[FileItem]:
    """Yield the documents of files and folders, in the order of their names.

    A file that is named is read whatever its suffix; one found in a folder only if its suffix is
    known. Hidden files and folders inside a folder are not looked at.
    """
    for path in paths:
        if path.is_dir():
            for found in _walk(path):
                yield from _read_found(found, max_bytes)
        else:
            yield from read_text_file(path, max_bytes)


def read_text_file(path: Path, max_bytes: int = MAX_BYTES) -> Iterator[FileItem]:
    """Yield the documents of one file."""
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        yield SkippedText(path, None, error.strerror or str(error), failed=True)
        return
    if len(content) > max_bytes:
        yield SkippedText(path, None, f"larger than {max_bytes:,} bytes", failed=False)
    elif b"\0" in content[:SNIFFED]:
        yield SkippedText(path, None, "binary", failed=False)
    else:
        yield from _parse(path, content)


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _ignored(name))
        yield from (Path(root, name) for name in sorted(files) if not _ignored(name))


def _ignored(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def _read_found(path: Path, max_bytes: int) -> Iterator[FileItem]:
    if path.suffix.lower() not in PARSERS:
        yield SkippedText(path, None, "not a known kind of text", failed=False)
    elif path.is_file():
        yield from read_text_file(path, max_bytes)
    else:
        yield SkippedText(path, None, "not a regular file", failed=False)


def _parse(path: Path, content: bytes) -> Iterator[FileItem]:
    """Decode a file and hand it to the reader of its kind; what cannot be decoded is replaced."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield SkippedText(path, line, "not UTF-8; such bytes are read as U+FFFD", failed=True)
        text = content.decode("utf-8-sig", errors="replace")
    yield from PARSERS.get(path.suffix.lower(), _plain)(path, text)


def _plain(path: Path, text: str) -> Iterator[FileItem]:
    yield FileText(path, None, text)


def _html(path: Path, text: str) -> Iterator[FileItem]:
    parser = TextExtractor()
    parser.feed(text)
    parser.close()
    yield FileText(path, None, "".join(parser.parts))


def _json(path: Path, text: str) -> Iterator[FileItem]:
    try:
        yield FileText(path, None, "\n".join(json_strings(json.loads(text))))
    except (ValueError, RecursionError) as error:
        yield SkippedText(path, None, f"not JSON: {error}", failed=True)


def _json_lines(path: Path, text: str) -> Iterator[FileItem]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield SkippedText(path, number, f"not JSON: {error}", failed=True)
            continue
        if isinstance(value, dict) and isinstance(value.get("text"), str):
            value = value["text"]
        yield FileText(path, number, "\n".join(json_strings(value)))


def _csv(path: Path, text: str) -> Iterator[FileItem]:
    return _rows(path, read_delimited(io.BytesIO(text.encode()), str(path)))


def _tsv(path: Path, text: str) -> Iterator[FileItem]:
    file = io.BytesIO(text.encode())
    return _rows(path, read_delimited(file, str(path), quoted=False, delimiter="\t"))


def _rows(path: Path, rows: Iterator[DelimitedRow | BadRow]) -> Iterator[FileItem]:
    for row in rows:
        if isinstance(row, BadRow) or row.problem:
            reason = row.reason if isinstance(row, BadRow) else row.problem
            yield SkippedText(path, row.line, reason, failed=True)
        elif "text" in row.values:
            yield FileText(path, row.line, row.values["text"])
        else:
            yield FileText(path, row.line, "\n".join(filter(None, row.values.values())))


PARSERS: dict[str, Callable[[Path, str], Iterator[FileItem]]] = {
    ".txt": _plain,
    ".text": _plain,
    ".md": _plain,
    ".markdown": _plain,
    ".rst": _plain,
    ".py": _plain,
    ".html": _html,
    ".htm": _html,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
    ".tsv": _tsv,
}
