"""Web pages: what a reader of the page sees, without its menus, with its headings."""

from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

from opengte.search.parse.base import ParsedDocument, ParsedItem
from opengte.search.parse.text import MOST_TITLE, decode_text

PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6"})


def parse_html(content: bytes) -> Iterator[ParsedItem]:
    """Yield the text of a web page without what is plainly navigation, banner or footer."""
    markup, warnings = decode_text(content, declares=True)
    found = extract_page(markup, boilerplate=False)
    yield replace(found, warnings=(*warnings, *found.warnings))


def extract_page(markup: str, boilerplate: bool = True) -> ParsedDocument:
    """Return the text of a page: all of it, or without its menus, banners and footers.

    >>> extract_page("<h1>Gadgets</h1><p>Press <b>two</b> keys.</p>").text
    'Gadgets\\n\\nPress two keys.'
    """
    from lxml import etree

    from opengte.search.parse.html_boilerplate import find_boilerplate
    from opengte.search.parse.html_text import render_tree

    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_pis=True)
    content = markup.replace("\0", "").encode("utf-8", "replace")
    try:
        page = etree.fromstring(content, parser)
    except etree.XMLSyntaxError:  # empty
        page = None
    if page is None or parser.error_log.filter_from_fatals():  # thousands deep: not all was read
        return _plain_page(markup)
    body = page.find("body")
    body = page if body is None else body
    text, sections = render_tree(body, () if boilerplate else find_boilerplate(body))
    title = " ".join((page.findtext(".//title") or "").split())
    title = title or (sections[0].title if sections else "")
    language = page.get("lang") or page.get("{http://www.w3.org/XML/1998/namespace}lang") or ""
    metadata = {"language": language[:32]} if language else {}
    return ParsedDocument(text, "", title[:MOST_TITLE], None, sections, metadata)


def _plain_page(markup: str) -> ParsedDocument:
    """Return the text of a page whose tree cannot be built."""
    reader = TextExtractor()
    reader.feed(markup)
    reader.close()
    text = "".join(reader.parts).strip()
    note = ("cannot be read as HTML: its text has menus, and no sections",)
    return ParsedDocument(text, warnings=note if text else ())


class TextExtractor(HTMLParser):
    """Collects what a reader of a page sees, with a line for each block."""

    hidden = frozenset({"script", "style", "template", "noscript"})
    inline = frozenset(
        "a abbr b bdi bdo cite code data del dfn em i ins kbd label mark q s samp small span "
        "strong sub sup time tt u var wbr".split()
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.depth = 0  # of hidden elements around what comes next

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Start a line at a block, and hide what is not text."""
        self.depth += tag in self.hidden
        self.break_line(tag)

    def handle_endtag(self, tag: str) -> None:
        """End a line at a block."""
        self.depth = max(0, self.depth - (tag in self.hidden))
        self.break_line(tag)

    def handle_data(self, data: str) -> None:
        """Add text that is not hidden."""
        if not self.depth:
            self.parts.append(data)

    def break_line(self, tag: str) -> None:
        """Begin a new line, or a paragraph, unless the element is inline."""
        if tag not in self.inline:
            self.parts.append("\n\n" if tag in PARAGRAPHS else "\n")
