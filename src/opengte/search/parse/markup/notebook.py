"""Jupyter notebooks: Markdown with its headings, code, and what it printed."""

import json
from collections.abc import Iterator
from typing import Any

from opengte.search.parse import text
from opengte.search.parse.base import ParsedItem, UnreadableFileError
from opengte.search.parse.outline import OutlineBuilder

SHOWN = 4_000  # characters of an output; the rest is counted


def parse_notebook(content: bytes) -> Iterator[ParsedItem]:
    """Yield the cells of a notebook in order; pictures among the outputs are left out."""
    try:
        book = json.loads(text.decode_text(content)[0])
        cells = book.get("cells") or [cell for s in book["worksheets"] for cell in s["cells"]]
        out = OutlineBuilder()
        cut = sum(_add_cell(out, cell) for cell in cells)
        language = (book.get("metadata") or {}).get("language_info", {}).get("name")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableFileError(f"not a notebook: {str(error)[:200]}") from error
    metadata = {"language": str(language)[:64]} if language else {}
    warnings = [f"{cut} outputs were cut after {SHOWN:,} characters"] * bool(cut)
    yield out.document("", metadata, warnings)


def _add_cell(out: OutlineBuilder, cell: Any) -> int:
    """Add a cell and what it printed; return how many outputs were cut."""
    source = _joined(cell.get("source", cell.get("input", "")))
    if cell.get("cell_type") == "markdown":
        out.extend(source, text.markdown_headings(source, 0))
    elif cell.get("cell_type") == "heading":
        out.heading(source)
    else:
        out.add(source)
    shown = [one for one in map(_output, cell.get("outputs") or ()) if one]
    for one in shown:
        out.add(one[:SHOWN])
    return sum(len(one) > SHOWN for one in shown)


def _output(output: Any) -> str:
    """Return the text that a cell printed or returned."""
    data = output.get("data") or output
    if output.get("output_type") in ("error", "pyerr"):
        return f"{output.get('ename', '')}: {output.get('evalue', '')}"
    return _joined(data.get("text/plain") or data.get("text") or output.get("text") or "")


def _joined(source: Any) -> str:
    return source if isinstance(source, str) else "".join(map(str, source))
