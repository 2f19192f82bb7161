"""XML: its text, block by block; the titles of DocBook, TEI, JATS and the like are headings."""

from collections.abc import Iterator
from typing import Any

from opengte.search.parse.base import ParsedItem
from opengte.search.parse.office.package import local_name, parse_xml
from opengte.search.parse.outline import OutlineBuilder

TITLES = ("title", "head", "heading", "titleabbrev")
ROWS = ("row", "tr")
VERBATIM = ("programlisting", "screen", "literallayout", "codeblock", "pre")
HIDDEN = ("indexterm", "titleabbrev", "remark", "script", "style")


def parse_xml_text(content: bytes) -> Iterator[ParsedItem]:
    """Yield the text of an XML file, without names of elements, attributes and entities."""
    out = OutlineBuilder()
    _read(parse_xml(content), out)
    yield out.document()


def _read(element: Any, out: OutlineBuilder) -> None:
    name = local_name(element)
    if not name or name in HIDDEN:
        return
    if name.endswith("info"):  # of who wrote and may use it; the title of a DocBook is in there
        for title in element.iterchildren("{*}title"):
            out.heading(_text(title))
    elif name in TITLES:
        out.heading(_text(element))
    elif name in VERBATIM:
        out.add(_text(element))
    elif name in ROWS:
        out.row(_text(cell) for cell in element if local_name(cell))
    elif _has_own_text(element) or not len(element):
        out.add(" ".join(_text(element).split()))
    else:
        for child in element:
            _read(child, out)


def _has_own_text(element: Any) -> bool:
    """Return whether an element has text between its children, which are inline then."""
    texts = [element.text, *(child.tail for child in element)]
    return any(text and text.strip() for text in texts)


def _text(element: Any) -> str:
    parts = [element.text or ""]
    for child in element:
        if local_name(child) not in ("", *HIDDEN):
            block = not _has_own_text(child) and len(child) > 0
            parts.append(f" {_text(child)} " if block else _text(child))
        elif type(child).__name__ == "_Entity":
            parts.append(" ")
        parts.append(child.tail or "")
    return "".join(parts)
