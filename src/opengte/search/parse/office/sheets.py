"""Spreadsheets: a sheet is a section, a row is a line; openpyxl, and calamine for the old formats.

calamine is not used for XLSX: it refuses files with cells that are no numbers though they say so.
"""

import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

from opengte.errors import MissingExtraError
from opengte.search.parse.base import ParsedItem, Scalar, UnreadableFileError
from opengte.search.parse.office.package import OLE, OfficePackage, damaged, local_name
from opengte.search.parse.outline import OutlineBuilder

NOTES = re.compile(r"xl/(?:comments/?|threadedComments/|drawings/drawing|charts/chart)[^/]*\.xml")
Sheets = Iterable[tuple[str, Iterable[Iterable[Any]]]]


def parse_sheets(content: bytes, unpacked: int, characters: int) -> Iterator[ParsedItem]:
    """Yield the values of an XLSX, XLSB or XLS file; formulas count with their last value.

    Comments and the texts of drawings and charts stand at the end, under their own heading.
    """
    package = None if content.startswith(OLE) else OfficePackage(content, unpacked)
    title = ""
    metadata: dict[str, Scalar] = {}
    if package:
        title, metadata = package.properties("docProps/core.xml")
    modern = package is not None and "xl/workbook.xml" in package.names
    out = OutlineBuilder()
    try:
        _add_sheets(out, (_openpyxl if modern else _calamine)(content), characters)
    except (MissingExtraError, UnreadableFileError):
        raise
    except Exception as error:  # both libraries raise whatever a damaged file makes them meet
        raise damaged(error) from error
    if package:
        _add_notes(out, package)
    yield out.document(title, metadata)


def _add_sheets(out: OutlineBuilder, sheets: Sheets, characters: int) -> None:
    length = 0
    for name, rows in sheets:
        out.heading(name)
        for row in rows:
            cells = [_shown(value) for value in row]
            length += sum(map(len, cells))
            if length > characters:
                raise UnreadableFileError(f"its cells hold more than {characters:,} characters")
            out.row(cells)


def _openpyxl(content: bytes) -> Sheets:
    try:
        import openpyxl
    except ImportError:
        raise MissingExtraError("openpyxl", "search", "Reading spreadsheets") from None
    book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # what a file says of its own size may be wrong
        yield sheet.title, sheet.iter_rows(values_only=True)


def _calamine(content: bytes) -> Sheets:
    try:
        from python_calamine import load_workbook
    except ImportError:
        raise MissingExtraError("python-calamine", "search", "Reading .xls and .xlsb") from None
    book = load_workbook(io.BytesIO(content))
    for name in book.sheet_names:
        yield name, book.get_sheet_by_name(name).iter_rows()


def _add_notes(out: OutlineBuilder, package: OfficePackage) -> None:
    texts: list[str] = []
    for part in sorted(filter(NOTES.fullmatch, package.names)):
        root = package.xml(part)
        said = [one.text for one in root.iter() if local_name(one) in ("t", "text") and one.text]
        texts += [" ".join(" ".join(said).split())] * bool(said)
    if texts:
        out.heading("Comments and drawings")
        for text in dict.fromkeys(texts):
            out.add(text)


def _shown(value: Any) -> str:
    """Return a value as a person reads it: 3 for 3.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return "" if value is None else str(value)  # of a date and time: 2024-03-02 10:00:00
