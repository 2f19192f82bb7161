"""What parsers return: documents with their sections, and problems with their reasons."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Section:
    """A part of a text that begins at a character, and its heading; a part of a PDF is a page."""

    start: int
    title: str


@dataclass(frozen=True)
class ParsedDocument:
    """One document of a file.

    row tells the documents of one file apart ("" where there is only one); line is where it begins
    in the file, from 1; metadata holds what the file itself says; warnings say what makes the text
    doubtful, such as empty pages. Of a document inside another file, such as an attachment, format
    is its own kind, and parent is the row of what it is attached to.
    """

    text: str
    row: str = ""
    title: str = ""
    line: int | None = None
    sections: tuple[Section, ...] = ()
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    format: str = ""
    parent: str | None = None


@dataclass(frozen=True)
class ParseProblem:
    """A file, or a part of it, that gave no document, or not all of it.

    failed: it should have; otherwise it is skipped on purpose. retry: the next run may read it
    though it did not change. part is a row or a member, as in `ParsedDocument.row`; "" is the file.
    """

    reason: str
    line: int | None = None
    failed: bool = True
    retry: bool = False
    part: str = ""


ParsedItem = ParsedDocument | ParseProblem


@dataclass(frozen=True)
class ParseProgress:
    """A part of a document that takes long is done: the time limit begins anew."""


@dataclass(frozen=True)
class EmbeddedFile:
    """A file inside another one, still to be parsed; alone: there is no other, as in a .gz.

    parent is the row of the message that it is attached to.
    """

    name: str
    content: bytes
    parent: str | None = None
    alone: bool = False

    @property
    def row(self) -> str:
        """The name within the file, which tells its parts apart."""
        return "" if self.alone else f"{self.parent}/{self.name}" if self.parent else self.name


@dataclass(frozen=True)
class ParseLimits:
    """What one file may cost. Sizes in bytes, times in seconds."""

    file_bytes: int = 64 << 20  # of a file that is read as a whole
    row_bytes: int = 16 << 20  # of one row of a file that is read row by row
    text_characters: int = 16 << 20  # of one document
    unpacked_bytes: int = 512 << 20  # of a compressed document
    memory_bytes: int = 3 << 30  # of the parsing process
    seconds: float = 60.0  # without any document
    ocr: str = "auto"  # languages of pages without text, such as "eng+deu"; "off": do not read them
    ocr_pages: int = 200  # of one document
    ocr_seconds: float = 900.0  # for one document


@dataclass(frozen=True)
class RowFields:
    """Which fields of a row of a table are its text, title and name; None: by usual names."""

    text: tuple[str, ...] = ()
    title: str | None = None
    id: str | None = None


class UnreadableFileError(Exception):
    """A file cannot be parsed; the message is the reason."""


def scalar_fields(values: Mapping[Any, Any], most: int = 64) -> dict[str, Scalar]:
    """Return the fields that can be filtered by: short scalars; lists of them become one string."""
    kept: dict[str, Scalar] = {}
    for key, value in values.items():
        if isinstance(value, list | tuple) and all(isinstance(one, str | int) for one in value):
            value = ", ".join(map(str, value))
        elif hasattr(value, "isoformat"):
            value = value.isoformat()
        number = isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value))
        if number or (isinstance(value, str) and len(value) <= 1024):
            kept[str(key)[:64]] = value
        if len(kept) == most:
            break
    return kept


def json_strings(value: Any) -> Iterator[str]:
    """Yield the strings in a JSON value, in order, without its keys."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text):
                yield text
            case list(items):
                waiting.extend(reversed(items))
            case dict(fields):
                waiting.extend(reversed(fields.values()))
