"""Delimited text, such as CSV, to rows: the one reader of such tables.

The first row names the columns. Every later row is an item: either whole, or bad with its reason.
In a quoted table, a field in quotation marks may contain delimiters and line ends; in the others,
such as `.tsv` files, a quotation mark is a character like any other.
"""

import csv
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

from opengte.errors import InputError

LINE_LIMIT = 64 * 2**20  # bytes: a longer line is reported, never held in memory
DELIMITERS = ",;\t|"
IDS = ("id", "_id")
PEEK = 64  # rows in which the column of texts is looked for

Line = tuple[int, str | None, str]  # its number and text; None and the reason if it is unusable


@dataclass(frozen=True)
class DelimitedRow:
    """A row that could be read.

    Attributes:
        line: The number of its first line, from 1.
        values: The values by column; columns without a name are left out.
        found: How many values it has.
        expected: How many columns there are.
    """

    line: int
    values: dict[str, str]
    found: int
    expected: int

    @property
    def problem(self) -> str:
        """Why the row does not fit the columns; an empty string if it does."""
        if self.found == self.expected:
            return ""
        return f"has {self.found} columns; expected {self.expected}, as in the header"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, and why; if `last`, nothing after it can be read either."""

    line: int
    reason: str
    last: bool = False


def read_delimited(
    stream: IO[bytes],
    label: str,
    *,
    quoted: bool = True,
    delimiter: str | None = None,
    limit: int | None = None,
    replace: bool = False,
) -> Iterator[DelimitedRow | BadRow]:
    r"""Yield the rows of a table.

    Args:
        stream: The file, open for reading bytes, in UTF-8 with or without a byte order mark.
        label: What errors call the file.
        quoted: Whether fields may be in quotation marks.
        delimiter: None: the one of comma, semicolon, tab and bar that the first line has most of.
        limit: The bytes that a line or a field may have; None: `LINE_LIMIT`.
        replace: Whether bytes that are not UTF-8 are replaced, instead of making a row bad.

    Raises:
        InputError: The file is UTF-16.

    >>> import io
    >>> file = io.BytesIO(b'id;text\n7;"a\nb"\n')
    >>> [row.values for row in read_delimited(file, "faq.csv")]
    [{'id': '7', 'text': 'a\nb'}]
    """
    limit = limit or LINE_LIMIT
    bad: list[str] = []  # what is wrong with the lines of the row that is being read
    lines = _marked(decoded_lines(stream, label, limit, replace), bad)
    start = list(_start(lines))
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    separator = delimiter or _delimiter("".join(start), quoted)
    reader = csv.reader(
        itertools.chain(start, lines), delimiter=separator, quoting=quoting, strict=True
    )
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        csv.field_size_limit(limit)  # of the whole process: others may have set theirs meanwhile
        try:
            cells, reason, last = next(reader), "", False
        except StopIteration:
            return
        except csv.Error as error:
            cells, (reason, last) = [], _reason(str(error), number, reader.line_num, limit)
        reason = reason or (bad[0] if bad else "")
        bad.clear()
        names = not header and (bool(cells) or bool(reason))
        if names:
            header = [cell.strip() for cell in cells]
            reason = f"{reason}; expected the names of columns" if reason else _wrong(header)
        if reason:
            last = last or names
            yield BadRow(number, reason, last)
            if last:
                return
        elif cells and not names:
            values = {name: cell for name, cell in zip(header, cells, strict=False) if name}
            yield DelimitedRow(number, values, len(cells), len(header))


def decoded_lines(
    stream: IO[bytes], label: str, limit: int | None = None, replace: bool = False
) -> Iterator[Line]:
    """Yield the lines of a stream of UTF-8, without their ends.

    Raises InputError for UTF-16, whose first bytes give it away.
    """
    number, limit = 0, limit or LINE_LIMIT
    while line := stream.readline(limit + 1):
        number += 1
        if number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise InputError(f"`{label}` is UTF-16; expected UTF-8. Convert it.")
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) > limit and not line.endswith(b"\n"):
            while (rest := stream.readline(2**20)) and not rest.endswith(b"\n"):
                pass
            yield number, None, f"is longer than {limit:,} bytes"
            continue
        try:
            text = line.decode("utf-8", "replace" if replace else "strict")
        except UnicodeDecodeError as error:
            yield number, None, f"is not UTF-8 (byte {error.start + 1} of the line)"
        else:
            yield number, text.rstrip("\r\n"), ""


def text_column(
    columns: Sequence[str], rows: Iterable[Mapping[str, Any]], ids: Collection[str] = IDS
) -> str:
    """Return the column that holds the texts: `text`, or the only one that can.

    Columns of ids, and those with nothing but numbers in `rows`, cannot. Raises InputError that
    lists the columns if several or none can.

    >>> text_column(["id", "question"], [{"id": "7", "question": "Who purrs?"}])
    'question'
    """
    if "text" in columns:
        return "text"
    held = list(rows)
    possible = [name for name in columns if name not in ids]
    if len(possible) > 1:
        possible = [name for name in possible if any(_is_text(row.get(name)) for row in held)]
    if len(possible) == 1:
        return possible[0]
    listed = ", ".join(f"`{name}`" for name in (possible or columns))
    what = "several columns can hold the texts" if possible else "no column holds texts"
    raise InputError(f"{what}: {listed}. Choose one with --text-field")


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        float(value.replace(",", "."))
    except ValueError:
        return True
    return False


def _marked(lines: Iterable[Line], bad: list[str]) -> Iterator[str]:
    for _, line, reason in lines:
        if line is None:
            bad.append(reason)
        yield (line or "") + "\n"


def _start(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines up to the first that is not blank."""
    for line in lines:
        yield line
        if line.strip():
            return


def _delimiter(line: str, quoted: bool) -> str:
    """Return the delimiter that a line has most of outside quotation marks."""
    plain = "".join(line.split('"')[::2]) if quoted else line
    return max(DELIMITERS, key=plain.count)


def _reason(error: str, first: int, last: int, limit: int) -> tuple[str, bool]:
    """Return what is wrong with the row of some lines, and whether the rest can be read."""
    if error == "unexpected end of data":
        return (
            "begins a row with a quotation mark that is never closed, so that the rows after it "
            "cannot be told apart. Close it, or write it twice if it belongs to the text",
            True,
        )
    if "field limit" in error:
        return (
            f"begins a row with a field of more than {limit:,} bytes. Is a quotation mark in it "
            "never closed?",
            True,
        )
    lines = f", with lines {first} to {last}" if last > first else ""
    return f"is not a row{lines}: {error}", False


def _wrong(header: list[str]) -> str:
    named = [name for name in header if name]
    for name in named:
        if named.count(name) > 1:
            return f"has the column `{name}` twice. Rename one."
    return "" if named else "has no names of columns"
