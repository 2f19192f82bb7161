"""Rows on their way from an input to an output, and the interface of an output format."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opengte.delimited import IDS, text_column
from opengte.errors import InputError

if TYPE_CHECKING:
    from opengte.types import Embeddings

OUTPUTS = ("dense", "sparse", "tokens")


@dataclass(frozen=True)
class TextRow:
    """One text with its line or row number, from 1, and its id (default: that number)."""

    number: int
    id: str | int
    text: str


@dataclass(frozen=True)
class InvalidRow:
    """A line or row that cannot be embedded, and why."""

    number: int
    reason: str


@dataclass(frozen=True)
class FieldNames:
    """Names of the fields that hold a row's text and id.

    None: the text is in `text`, or in the only column of a table that can hold it; the id is in
    `id`, if the row has that field.
    """

    text: str | None = None
    id: str | None = None

    def among(self, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> "FieldNames":
        """Return the names with that of the text chosen among the columns of a table.

        Raises InputError that lists the columns if one is missing, or the text could be in several.
        """
        for option, name in (("--text-field", self.text), ("--id-field", self.id)):
            if name is not None and name not in columns:
                raise InputError(
                    f"{option} `{name}` is not a column; the columns are "
                    + ", ".join(f"`{column}`" for column in columns)
                )
        ids = IDS if self.id is None else (self.id,)
        return replace(self, text=self.text or text_column(columns, rows, ids))


@dataclass(frozen=True, eq=False)
class EmbeddedRows:
    """Rows that were embedded together: their ids and their vectors."""

    ids: tuple[str | int, ...]
    embeddings: "Embeddings"

    def metadata(self, index: int) -> dict[str, Any]:
        """Return the id, the token count and the truncation of one row.

        at_least is there where `truncated_from` is a lower bound, of a text not read to its end.
        """
        row: dict[str, Any] = {"id": self.ids[index]}
        row["token_count"] = int(self.embeddings.token_counts[index])
        for cut in self.embeddings.truncated:
            if cut.index == index:
                row["truncated_from"] = cut.found
                if cut.at_least:
                    row["at_least"] = True
        return row


@dataclass(frozen=True)
class EmbedProgress:
    """How far a run came: input rows seen, what became of them, bytes in each part file."""

    seen: int = 0
    written: int = 0
    failed: int = 0
    truncated: int = 0
    repaired: int = 0
    tokens: int = 0
    offsets: tuple[int, ...] = ()
    complete: bool = False

    def plus(self, other: "EmbedProgress") -> "EmbedProgress":
        """Add the counts and offsets of one more window."""
        counts = ("seen", "written", "failed", "truncated", "repaired", "tokens")
        sums = {name: getattr(self, name) + getattr(other, name) for name in counts}
        offsets = tuple(a + b for a, b in zip(self.offsets, other.offsets, strict=True))
        return replace(self, offsets=offsets, **sums)


@dataclass(frozen=True)
class OutputSchema:
    """What an output file holds: the width of a dense vector, the outputs, and their model."""

    width: int
    outputs: tuple[str, ...]
    model: str
    fingerprint: str


@dataclass(frozen=True)
class OutputFormat:
    """An output format whose part files can be appended to and cut at any recorded offset.

    `files` names the final files. `first` returns the opening bytes of each part file, and `render`
    the bytes that a block of rows adds to each. `finish` turns a part file into its final file,
    given the number of rows; it makes what cannot be appended (the size in the header of .npy, the
    footer of Parquet) from the part file alone, so repeating it gives the same bytes.
    """

    files: Callable[[Path], tuple[Path, ...]]
    first: Callable[[OutputSchema], tuple[bytes, ...]]
    render: Callable[[EmbeddedRows, OutputSchema], tuple[bytes, ...]]
    finish: Callable[[Path, Path, OutputSchema, int], None]


def row_from_record(
    number: int, record: dict[str, Any], fields: FieldNames
) -> TextRow | InvalidRow:
    """Take the text and the id from a record, or return what is wrong with them."""
    name = fields.text or "text"
    if name not in record:
        return InvalidRow(number, f"has no field `{name}`{_listed(record)}")
    if fields.id is not None and fields.id not in record:
        return InvalidRow(number, f"has no field `{fields.id}`, named by --id-field")
    text, row_id = record[name], record.get(fields.id or "id", number)
    if not isinstance(text, str):
        reason = f"field `{name}` is {json_type(text)}; expected a string"
        return InvalidRow(number, reason)
    if reason := _id_problem(row_id):
        return InvalidRow(number, f"field `{fields.id or 'id'}` {reason}")
    return TextRow(number, row_id, text)


def _listed(record: dict[str, Any]) -> str:
    """Say which fields could be chosen: at most eight, at most 40 characters of each."""
    names = ", ".join(f"`{repr(name[:40])[1:-1]}`" for name in itertools.islice(record, 8))
    advice = "; choose one with --text-field"
    return f", only {names}{', ...' if len(record) > 8 else ''}{advice}" if record else advice


def _id_problem(value: object) -> str:
    """Return why a value cannot be an id, or an empty string."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return f"is {json_type(value)}; expected a string or an integer"
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return "has half of a surrogate pair; expected whole characters"
    return ""


def json_type(value: object) -> str:
    """Return the name of a value's type in JSON, with its article.

    >>> json_type([1]), json_type(None)
    ('an array', 'null')
    """
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), f"of type {type(value).__name__}")
