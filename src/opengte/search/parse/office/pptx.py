"""PowerPoint: a slide is a section, with its tables, charts, diagrams, notes and comments."""

from collections.abc import Iterator
from typing import Any

from opengte.search.parse.base import ParsedItem
from opengte.search.parse.office.formulas import formula_text
from opengte.search.parse.office.package import OfficePackage, attribute, damaged, local_name
from opengte.search.parse.outline import OutlineBuilder

PRESENTATION = "ppt/presentation.xml"
ATTACHED = {"chart": "", "diagramData": "", "notesSlide": "Notes: ", "comments": "Comment: "}
PLACEHOLDERS = ("sldNum", "dt", "ftr", "hdr", "sldImg")


def parse_pptx(content: bytes, unpacked: int) -> Iterator[ParsedItem]:
    """Yield the text of a PPTX file, slide by slide."""
    package = OfficePackage(content, unpacked)
    title, metadata = package.properties("docProps/core.xml")
    root, links = package.xml(PRESENTATION), package.links(PRESENTATION)
    if root is None:
        raise damaged(KeyError(PRESENTATION))
    out = OutlineBuilder()
    slides = [
        next((links[v] for v in one.attrib.values() if v in links), ("", ""))
        for one in root.iterfind(".//{*}sldId")
    ]
    for number, (_, path) in enumerate(slides, 1):
        slide = package.xml(path)
        if slide is not None:
            _slide(out, package, path, slide, number)
    first = "" if title == "PowerPoint Presentation" else title
    yield out.document(first, {**metadata, "slides": len(slides)})


def _slide(out: OutlineBuilder, package: OfficePackage, path: str, root: Any, number: int) -> None:
    shapes = list(root.iter("{*}sp"))
    heads = [one for one in shapes if _placeholder(one) in ("title", "ctrTitle")]
    out.heading(" ".join(" ".join(_lines(one)) for one in heads) or f"Slide {number}")
    for block in root.iter("{*}txBody", "{*}tbl"):
        shape = next(block.iterancestors("{*}sp"), None)
        if _hidden(block) or (shape is not None and shape in heads):
            continue
        if local_name(block) == "tbl":
            for index, row in enumerate(block.iterfind("{*}tr")):
                cells = (" ".join(_lines(cell)) for cell in row.iterfind("{*}tc"))
                out.row(cells, "\n" if index else "\n\n")
        elif next(block.iterancestors("{*}tc"), None) is None:
            out.add("\n".join(_lines(block)))
    for kind, part in package.links(path).values():
        attached = package.xml(part) if kind in ATTACHED else None
        if attached is not None:
            shown = [one for one in attached.iter() if local_name(one) in ("p", "pt", "text")]
            lines = [line for one in shown if not _hidden(one) and (line := _line(one))]
            out.add(ATTACHED[kind] + "\n".join(lines) if lines else "")


def _placeholder(shape: Any) -> str:
    return next((attribute(one, "type") for one in shape.iterfind("{*}nvSpPr/{*}nvPr/{*}ph")), "")


def _hidden(block: Any) -> bool:
    """Return whether a block is a page number, a date or a footer, or an older form of another."""
    around = list(block.iterancestors())
    return any(
        local_name(one) == "Fallback"
        or (local_name(one) == "sp" and _placeholder(one) in PLACEHOLDERS)
        for one in around
    )


def _lines(element: Any) -> list[str]:
    return [line for one in element.iter("{*}p") if (line := _line(one))]


def _line(element: Any) -> str:
    """Return a paragraph, a value of a chart or a comment."""
    parts = []
    for child in element.iter():
        match local_name(child):
            case "t" | "v" | "text":
                inside = any(local_name(one) == "oMath" for one in child.iterancestors())
                parts.append("" if inside else child.text or "")
            case "br" | "tab":
                parts.append(" ")
            case "oMath":
                parts.append(formula_text(child))
    return " ".join("".join(parts).split())
