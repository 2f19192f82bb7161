"""The text of an HTML tree: every word a reader of the page sees, in order, with its layout.

A block is a line or a paragraph, a row of a table one line with ` | ` between its cells, an item of
a list one line with its marker; inline elements stay in their line and `pre` keeps its characters.
"""

import re
from collections.abc import Collection
from typing import Any

from lxml import etree

from opengte.search.parse.base import Section

HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
UNSEEN = frozenset(
    "annotation annotation-xml area audio base canvas datalist defs desc embed head iframe link "
    "meta metadata noscript param rp script select source style template title track video".split()
)
PARAGRAPHS = frozenset(
    "address article aside blockquote details dl dt fieldset figure footer form header hr main "
    "menu nav ol p pre section table textarea ul".split()
)
LINES = frozenset(
    "body caption center dd dir div figcaption legend li optgroup option summary tr".split()
)
LISTS = frozenset({"ul", "ol", "menu", "dir"})
CELLS = frozenset({"td", "th"})
LINK_MARKS = frozenset({"¶", "#", "§", "🔗", "\u200b", ""})
LONG_CELL = 2000  # characters from which a cell is a column of a layout, not a value
HIDDEN_TEXT = 200  # characters from which a hidden text is one that a click shows
MOST_HEADING = 200

_DISPLAY_NONE = re.compile(r"display\s*:\s*none", re.I)
_DISPLAY_BLOCK = re.compile(r"display\s*:\s*(?:block|flex|grid)", re.I)
_PRE_STYLE = re.compile(r"white-space\s*:\s*pre(?!-line)", re.I)
_FILE_NAME = re.compile(r"\S+\.(?:png|jpe?g|gif|svg|webp|bmp)|https?:\S+", re.I)
_NO_CONTENT = frozenset({"image", "icon", "logo", "img", "photo", "picture", "avatar", "figure"})
_EAST_ASIAN = "\u3000-\u30ff\u3400-\u9fff\uff00-\uffef"
_EAST_ASIAN_BREAK = re.compile(rf"(?<=[{_EAST_ASIAN}])\s*\n\s*(?=[{_EAST_ASIAN}])")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")


def render_tree(body: Any, dropped: Collection[Any] = ()) -> tuple[str, tuple[Section, ...]]:
    """Return the text of a tree, and its headings; without the elements of `dropped`."""
    writer = _TextWriter(_layout_tables(body))
    walker = etree.iterwalk(body, events=("start", "end", "comment", "pi"))
    skipped = None
    for event, element in walker:
        if event == "start":
            if element in dropped or is_unseen(element):
                skipped = element
                walker.skip_subtree()
            elif element.tag == "math" and (formula := _typed_formula(element)):
                skipped = element
                walker.skip_subtree()
                writer.text(formula)
            else:
                writer.start(element)
            continue
        if event == "end":
            if element is not skipped:
                writer.end(element)
            skipped = None
        if element.tail and element is not body:
            writer.text(element.tail)
    return "".join(writer.parts), tuple(writer.sections)


def is_unseen(element: Any) -> bool:
    """Return whether no reader sees an element, even after a click."""
    tag = element.tag
    if tag in UNSEEN or (tag == "dialog" and element.get("open") is None):
        return True
    if tag == "a":
        return _marks_a_link(element)
    if tag == "button":
        return _is_control(element)
    names = element.get("class") or ""
    if "katex-html" in names or "linenos" in names or "mwe-math-fallback" in names:
        return True
    hidden = element.get("hidden") is not None or _DISPLAY_NONE.search(element.get("style") or "")
    if not hidden or element.get("role") == "tabpanel":
        return False
    return len("".join(element.itertext())) < HIDDEN_TEXT


def _marks_a_link(link: Any) -> bool:
    """Return whether a link is only the mark that a generator puts behind a heading."""
    return (
        len(link) == 0
        and (link.text or "").strip() in LINK_MARKS
        and (link.get("href") or "").startswith("#")
    )


def _is_control(button: Any) -> bool:
    """Return whether a button is one such as "Copy"; questions that open their answer are text."""
    if button.get("aria-expanded") is not None or button.get("role") == "tab":
        return False
    words = "".join(button.itertext()).split()
    return len(words) < 3 and not any(one.tag in HEADINGS for one in button.iterancestors())


def _layout_tables(body: Any) -> set[Any]:
    """Return the tables that arrange a page: those around headings, code, tables, long texts."""
    found: set[Any] = set()
    for element in body.iter("table", "pre", "ol", "ul", *HEADINGS):
        if element.tag in LISTS and len(element) < 6:
            continue
        for table in element.iterancestors("table"):
            if table in found:
                break
            found.add(table)
    for cell in body.iter("td"):
        if len(cell) > 1 and sum(map(len, cell.itertext())) > LONG_CELL:
            found.update(list(cell.iterancestors("table"))[:1])
    return found


class _TextWriter:
    """Collects text; breaks and spaces are held back until the next word."""

    def __init__(self, layout: set[Any]) -> None:
        self.parts: list[str] = []
        self.sections: list[Section] = []
        self.length = 0
        self.layout = layout
        self.breaks = 0  # line ends due
        self.space = False  # a space is due
        self.cells = 0  # cell borders due
        self.prefix = ""  # of the list item that begins
        self.fixed = False  # the breaks due are not to grow
        self.flat = 0  # cells and headings around: no breaks
        self.pre = 0
        self.after_link = self.between_links = False
        self.lists: list[int] = []  # the number of the next item, 0 for a bullet
        self.paragraphs = 0  # blank lines written
        self.item_starts: list[int] = []
        self.heading: tuple[Any, int, int] | None = None  # element, first part, place

    def text(self, data: str) -> None:
        """Write the text of a node: white space is one space, as in a browser."""
        self.after_link = False
        if not data.isascii():
            data = _INVISIBLE.sub("", data)
        if self.pre and not self.heading:
            self._write_pre(data)
            return
        if not data.isascii():
            data = _EAST_ASIAN_BREAK.sub("", data)
        words = " ".join(data.split())
        if not words:
            self.space = self.space or bool(data)
            return
        self.space = self.space or data[0].isspace()
        self._write(words)
        self.space = data[-1].isspace()

    def _write_pre(self, data: str) -> None:
        data = data.replace("\r\n", "\n")
        if not self.length or self.breaks:
            data = data.lstrip("\n")
        if data:
            self._write(data)

    def _write(self, words: str) -> None:
        last = self.parts[-1] if self.parts else ""
        joined = self.between_links and last[-1:].isalnum() and words[0].isalnum()
        gap = ""
        if self.breaks and last:
            gap = "\n" * (self.breaks - (len(last) - len(last.rstrip("\n"))))
            self.paragraphs += self.breaks > 1
        elif (self.space or joined) and last and not self.cells:
            gap = " "
        if self.cells:
            gap += "| " * self.cells if self.breaks else " |" * self.cells + " "
        self._put(gap + self.prefix)
        self.breaks, self.cells, self.prefix = 0, 0, ""
        self.space = self.fixed = self.between_links = False
        if self.heading and self.heading[1] < 0:
            self.heading = self.heading[0], len(self.parts), self.length
        self._put(words)

    def _put(self, part: str) -> None:
        if part:
            self.parts.append(part)
            self.length += len(part)

    def _break(self, count: int) -> None:
        """Ask for line ends before the next word."""
        if self.flat:
            self.space = True
        elif not self.fixed:
            self.breaks = max(self.breaks, count)

    def start(self, element: Any) -> None:
        """Begin an element and write the text before its first child."""
        tag = element.tag
        if tag in HEADINGS:
            self._start_heading(element)
        elif tag in PARAGRAPHS:
            self._start_paragraph(element, tag)
        elif tag in LINES:
            self._start_line(element, tag)
        elif tag in CELLS:
            self._start_cell(element)
        else:
            self._start_inline(element, tag)
        self.pre += tag in ("pre", "textarea") or _styled(element, _PRE_STYLE)
        if element.text:
            self.text(element.text)

    def end(self, element: Any) -> None:
        """End an element."""
        tag = element.tag
        self.pre -= tag in ("pre", "textarea") or _styled(element, _PRE_STYLE)
        if tag in HEADINGS:
            self._end_heading(element)
        elif tag in CELLS or tag == "tr":
            self._end_cell(element)
        elif tag in PARAGRAPHS:
            self._end_paragraph(tag)
        elif tag in LINES:
            self._end_line(tag)
        else:
            self._end_inline(element, tag)

    def _start_heading(self, element: Any) -> None:
        self._break(2)
        if self.heading is None:
            self.flat += 1
            self.heading = element, -1, 0

    def _end_heading(self, element: Any) -> None:
        if self.heading and self.heading[0] is element:
            _, first, place = self.heading
            self.heading = None
            self.flat -= 1
            title = "".join(self.parts[first:]).rstrip() if first >= 0 else ""
            if title:
                self.sections.append(Section(place, title[:MOST_HEADING]))
        self._break(2)

    def _start_paragraph(self, element: Any, tag: str) -> None:
        if tag in LISTS:
            self._break(1 if self.lists else 2)
            start = element.get("start") or ""
            first = int(start) if start.isdecimal() and len(start) < 9 else 1
            self.lists.append(first if tag == "ol" else 0)
        elif tag == "dt":
            self._break(1 if _follows(element, "dt") else 2)
        else:
            self._break(2)

    def _end_paragraph(self, tag: str) -> None:
        if tag in LISTS and self.lists:
            self.lists.pop()
            self._break(1 if self.lists else 2)
        elif tag != "dt":
            self._break(2)

    def _start_line(self, element: Any, tag: str) -> None:
        self._break(1)
        if tag == "li":
            self._start_item()
        elif tag == "dd" and not self.flat and not self.fixed:
            self.breaks, self.fixed = 1, True
        elif tag == "tr":
            self.flat += self._is_row(element)

    def _start_item(self) -> None:
        due = self.breaks > 1 and bool(self.parts)
        self.item_starts.append(self.paragraphs + due)
        if self.flat:
            return
        self.fixed = True
        number = self.lists[-1] if self.lists else 0
        if number:
            self.lists[-1] += 1
        mark = f"{number}. " if number else "- "
        self.prefix = "  " * (len(self.lists) - 1) + mark

    def _end_line(self, tag: str) -> None:
        if tag == "li":
            self.fixed, self.prefix = False, ""
            loose = bool(self.item_starts) and self.paragraphs > self.item_starts.pop()
            if not self.flat:
                self.breaks = 2 if loose else 1
        elif tag == "dd":
            self.fixed = False
        self._break(1)

    def _start_cell(self, element: Any) -> None:
        if not self._is_row(element):
            self._break(1)
        elif element.getprevious() is not None:
            self.cells += 1

    def _end_cell(self, element: Any) -> None:
        if not self._is_row(element):
            self._break(1)
        elif element.tag == "tr":
            self.flat -= 1
            self.cells, self.space = 0, False
            self._break(1)

    def _is_row(self, element: Any) -> bool:
        table = next(element.iterancestors("table"), None)
        return table is not None and table not in self.layout

    def _start_inline(self, element: Any, tag: str) -> None:
        if tag == "br":
            self._start_break()
        elif tag == "img":
            self._start_image(element)
        elif tag in ("q", "rt"):
            self._write("“" if tag == "q" else "(")
        elif tag in ("text", "button", "label"):
            self.space = True
        elif _styled(element, _DISPLAY_BLOCK):
            self._break(1)
        self.between_links = tag == "a" and self.after_link

    def _end_inline(self, element: Any, tag: str) -> None:
        if tag in ("q", "rt"):
            self.space = False
            self._write("”" if tag == "q" else ")")
        elif tag in ("text", "button", "label"):
            self.space = True
        elif _styled(element, _DISPLAY_BLOCK):
            self._break(1)
        self.after_link = tag == "a" and not self.pre

    def _start_break(self) -> None:
        if self.pre:
            self._write_pre("\n")
        elif self.breaks and not self.fixed:
            self._break(2)
        else:
            self._break(1)

    def _start_image(self, element: Any) -> None:
        alt = _alternative(element)
        if alt:
            self.space = True
            self.text(alt)
            self.space = True


def _typed_formula(formula: Any) -> str:
    """Return a formula as it was typed; empty if the page has only its layout."""
    typed = formula.xpath(".//*[local-name()='annotation'][contains(@encoding,'tex')]")
    return " ".join((typed[0].text or "").split()) if typed else ""


def _styled(element: Any, style: re.Pattern[str]) -> bool:
    given = element.get("style")
    return bool(given and style.search(given))


def _follows(element: Any, tag: str) -> bool:
    before = element.getprevious()
    return before is not None and before.tag == tag


def _alternative(image: Any) -> str:
    """Return the text of an image, empty if it says nothing, or what stands beside it."""
    alt = " ".join((image.get("alt") or "").split())
    if not alt or _FILE_NAME.fullmatch(alt) or alt.lower() in _NO_CONTENT:
        return ""
    for around in image.iterancestors("a", "figure"):
        if alt in " ".join("".join(around.itertext()).split()):
            return ""
    return alt
