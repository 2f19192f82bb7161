"""Word documents: paragraphs, tables, text boxes, formulas, notes, comments, headers."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from opengte.search.parse.base import ParsedItem
from opengte.search.parse.office.formulas import formula_text
from opengte.search.parse.office.package import OfficePackage, attribute, damaged, local_name
from opengte.search.parse.outline import MOST_TITLE, OutlineBuilder

HEADING = re.compile(r"heading \d|title", re.IGNORECASE)
HIDDEN = ("Fallback", "del", "moveFrom", "instrText", "pPr", "rPr", "delText")
OTHERS = {"header": "Header", "footer": "Footer", "footnotes": "Footnotes", "endnotes": "Endnotes"}
OTHERS["comments"] = "Comments"


def parse_docx(content: bytes, unpacked: int) -> Iterator[ParsedItem]:
    """Yield the text of a DOCX file: its body, then what stands around it under its own headings.

    UnreadableFileError for a file that is no such document, or unpacks to too much.
    """
    package = OfficePackage(content, unpacked)
    title, metadata = package.properties("docProps/core.xml")
    links = package.links("word/document.xml")
    body = package.xml("word/document.xml")
    if body is None:
        raise damaged(KeyError("word/document.xml"))
    reader = _WordReader(_heading_styles(package.xml("word/styles.xml")))
    reader.read(body)
    title = title or next((one.title for one in reader.out.sections), "")
    for kind, heading in OTHERS.items():
        parts = {path for other, path in links.values() if other == kind}
        roots = [root for path in sorted(parts) if (root := package.xml(path)) is not None]
        reader.around(heading, roots)
    yield replace(reader.out.document(title, metadata), title=title[:MOST_TITLE])


def _heading_styles(root: Any) -> set[str]:
    """Return the ids of styles that are headings, by their names, levels and parents."""
    styles = {} if root is None else {attribute(s, "styleId"): s for s in root if len(s)}
    found: set[str] = set()
    for name, style in styles.items():
        seen: set[str] = set()
        while style is not None and name not in seen:
            seen.add(name)
            own = {local_name(child): attribute(child, "val") for child in style.iter()}
            if HEADING.match(own.get("name", "")) or own.get("outlineLvl", "9") < "9":
                found.add(attribute(next(iter(styles[name] for name in seen)), "styleId"))
                found |= seen
                break
            name = own.get("basedOn", "")
            style = styles.get(name)
    return found


class _WordReader:
    """Adds the blocks of a part to an outline, text boxes after the paragraph that holds them."""

    def __init__(self, headings: set[str]) -> None:
        self.out = OutlineBuilder()
        self._headings = headings

    def around(self, heading: str, roots: list[Any]) -> None:
        """Add parts outside the body; the same header of several sections is read once."""
        texts = dict.fromkeys(text for root in roots for text in self._paragraphs(root) if text)
        if texts:
            self.out.heading(heading)
            for text in texts:
                self.out.add(text)

    def _paragraphs(self, root: Any) -> Iterator[str]:
        for element in root.iter():
            if local_name(element) == "p":
                yield self._text(element).strip()

    def read(self, element: Any) -> None:
        """Add the blocks below an element."""
        for child in element:
            match local_name(child):
                case "p":
                    self._paragraph(child)
                case "tbl":
                    self._table(child)
                case name if name not in HIDDEN:
                    self.read(child)

    def _paragraph(self, element: Any) -> None:
        text = self._text(element)
        settings = {local_name(one): attribute(one, "val") for one in element.iterfind("{*}pPr/*")}
        if settings.get("pStyle") in self._headings or settings.get("outlineLvl", "9") < "9":
            self.out.heading(text)
        elif "numPr" in settings:
            self.out.add(f"- {text}" if text.strip() else "", "\n")
        else:
            self.out.add(text)
        for box in element.iter("{*}txbxContent"):
            if not any(local_name(one) == "Fallback" for one in box.iterancestors()):
                self.read(box)

    def _table(self, table: Any) -> None:
        for number, row in enumerate(table.iterfind("{*}tr")):
            cells = [
                " ".join(self._text(one) for one in cell.iter("{*}p"))
                for cell in row.iter("{*}tc")
                if next(cell.iterancestors("{*}tr")) is row
            ]
            self.out.row(cells, "\n" if number else "\n\n")

    def _text(self, element: Any) -> str:
        parts: list[str] = []
        for child in element:
            match local_name(child):
                case "t":
                    parts.append(child.text or "")
                case "tab":
                    parts.append("\t")
                case "br" | "cr":
                    parts.append("\n")
                case "noBreakHyphen":
                    parts.append("-")
                case "oMath":
                    parts.append(formula_text(child))
                case "txbxContent":
                    continue
                case name if name not in HIDDEN:
                    parts.append(self._text(child))
        return "".join(parts)
