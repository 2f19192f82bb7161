"""OpenDocument: headings, slides, sheets, tables as rows, notes, comments, formulas."""

from collections.abc import Iterator
from typing import Any

from opengte.search.parse.base import ParsedItem
from opengte.search.parse.office.formulas import formula_text
from opengte.search.parse.office.package import OfficePackage, attribute, damaged, local_name
from opengte.search.parse.outline import OutlineBuilder

DROPPED = ("tracked-changes", "forms", "sequence-decls", "variable-decls", "scripts", "settings")
MOST_REPEATED = 256  # times that a cell says it repeats
MARGINS = {"header": "Header", "footer": "Footer"}


def parse_odf(content: bytes, unpacked: int) -> Iterator[ParsedItem]:
    """Yield the text of an ODT, ODP or ODS file."""
    package = OfficePackage(content, unpacked)
    if b"encryption-data" in package.read("META-INF/manifest.xml"):
        raise damaged(ValueError("it is encrypted"))
    root = package.xml("content.xml")
    if root is None:
        raise damaged(KeyError("content.xml"))
    title, metadata = package.properties("meta.xml")
    reader = _OpenDocumentReader(package)
    for body in root.iterfind("{*}body"):
        reader.read(body)
    sheets = root.find("{*}body/{*}spreadsheet") is not None  # whose margins are page numbers
    styles = None if sheets else package.xml("styles.xml")
    for name, heading in MARGINS.items():
        found = () if styles is None else styles.iterfind(f".//{{*}}master-page/{{*}}{name}")
        reader.margin(heading, [reader.text(p) for one in found for p in one.iter("{*}p")])
    yield reader.out.document(title, metadata)


class _OpenDocumentReader:
    def __init__(self, package: OfficePackage) -> None:
        self.out = OutlineBuilder()
        self._package = package
        self._slides = 0

    def margin(self, heading: str, texts: list[str]) -> None:
        """Add headers or footers."""
        kept = [text for text in dict.fromkeys(texts) if text.strip(" \n0123456789<>")]
        if kept:
            self.out.heading(heading)
            self.out.add("\n".join(kept))

    def read(self, element: Any) -> None:
        """Add the blocks below an element."""
        for child in element:
            match local_name(child):
                case "h":
                    self.out.heading(self.text(child))
                case "p":
                    self.out.add(self.text(child))
                    for box in child.iterfind(".//{*}text-box"):
                        self.read(box)
                case "list-item":
                    self._item(child)
                case "table-row":
                    self.out.row(self._cells(child))
                case name if name in ("table", "page", "notes", "object"):
                    self._container(name, child)
                case name if name and name not in DROPPED:
                    self.read(child)

    def _container(self, name: str, element: Any) -> None:
        match name:
            case "table":
                if local_name(element.getparent()) == "spreadsheet":
                    self.out.heading(attribute(element, "name"))
                self.read(element)
            case "page":
                self._slide(element)
            case "notes":
                words = [self.text(one) for one in element.iter("{*}p")]
                self.out.add(" ".join(["Notes:", *words]) if any(words) else "")
            case "object":
                self._embedded(element)

    def _cells(self, row: Any) -> Iterator[str]:
        for cell in row.iterfind("{*}table-cell"):
            text = " ".join(self.text(p) for p in cell.iter("{*}p", "{*}h"))
            times = attribute(cell, "number-columns-repeated") if text.strip() else ""
            yield from [text] * min(int(times or 1), MOST_REPEATED)

    def _item(self, item: Any) -> None:
        before = self.out.blocks
        for child in item:
            if local_name(child) == "p" and self.out.blocks == before:
                text = self.text(child)
                self.out.add(f"- {text}" if text.strip() else "", "\n")
            else:
                self.read([child])

    def _slide(self, page: Any) -> None:
        self._slides += 1
        frames = list(page.iterfind("{*}frame"))
        heads = [one for one in frames if attribute(one, "class") == "title"]
        words = " ".join(self.text(p) for one in heads for p in one.iter("{*}p"))
        self.out.heading(words or f"Slide {self._slides}")
        self.read([one for one in page if one not in heads])

    def text(self, element: Any) -> str:
        """Return a paragraph with its notes and comments in brackets; text boxes are left out."""
        parts = [element.text or ""]
        for child in element:
            match local_name(child):
                case "s":
                    parts.append(" " * min(64, int(attribute(child, "c") or 1)))
                case "tab":
                    parts.append("\t")
                case "line-break":
                    parts.append("\n")
                case "note" | "annotation":
                    inner = " ".join(self.text(p) for p in child.iter("{*}p")).strip()
                    parts.append(f" [{inner}]" if inner else "")
                case "object":
                    parts.append(self._formula(child))
                case name if name not in ("", "text-box", "page-number"):
                    parts.append(self.text(child))
            parts.append(child.tail or "")
        return "".join(parts).replace("\n    ", " ")

    def _embedded(self, element: Any) -> None:
        """Add a formula, a table or a chart that is a document of its own inside this one."""
        self.out.add(self._formula(element))
        path = attribute(element, "href").removeprefix("./")
        root = self._package.xml(f"{path}/content.xml") if path else None
        for body in () if root is None else root.iterfind("{*}body"):
            self.read(body)

    def _formula(self, element: Any) -> str:
        path = attribute(element, "href").removeprefix("./")
        root = self._package.xml(f"{path}/content.xml") if path else None
        return formula_text(root) if root is not None and local_name(root) == "math" else ""
