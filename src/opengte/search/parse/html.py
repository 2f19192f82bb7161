"""Web pages: what a reader of the page sees, with its headings."""

from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import accumulate

from opengte.search.parse.base import ParsedDocument, ParsedItem, Section
from opengte.search.parse.text import MOST_TITLE, decode_text

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
SHORT = 250  # characters below which the main part of a page is not trusted to be all of it


def parse_html(content: bytes) -> Iterator[ParsedItem]:
    """Yield a web page without the menus around its main part, where that part can be told."""
    markup, warnings = decode_page(content)
    whole = extract_page(markup)
    main = _main_part(markup)
    found = whole if main is None or len(main.text) < SHORT else main
    yield ParsedDocument(
        found.text,
        title=(whole.title or found.title)[:MOST_TITLE],
        sections=found.sections,
        metadata=whole.metadata,
        warnings=warnings,
    )


def decode_page(content: bytes) -> tuple[str, tuple[str, ...]]:
    """Return a page as text; what the page says of its encoding counts where it is not UTF-8."""
    text, warnings = decode_text(content)
    if not warnings:
        return text, ()
    from lxml.html import HTMLParser as Sniffer
    from lxml.html import document_fromstring

    try:
        named = document_fromstring(content[:4096], parser=Sniffer()).getroottree().docinfo.encoding
        return content.decode(named or "utf-8"), ()
    except (ValueError, LookupError):  # an encoding that does not exist, or does not fit
        return text, warnings


def extract_page(markup: str) -> ParsedDocument:
    """Return all the text of a page."""
    reader = _PageReader()
    reader.feed(markup)
    reader.close()
    return reader.result()


def _main_part(markup: str) -> ParsedDocument | None:
    import trafilatura

    found = trafilatura.extract(
        markup,
        output_format="html",
        favor_recall=True,
        include_comments=False,
        include_tables=True,
        include_formatting=True,
    )
    return extract_page(found) if found else None


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
            self.parts.append("\n\n" if tag == "p" or tag in HEADINGS else "\n")


class _PageReader(TextExtractor):
    """Also collects the title, the headings and the language of a page."""

    hidden = TextExtractor.hidden | {"title", "svg"}

    def __init__(self) -> None:
        super().__init__()
        self.in_title = False
        self.title = ""
        self.heading: int | None = None  # part where a heading begins
        self.sections: list[tuple[int, str]] = []  # part and heading
        self.language = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where titles and headings begin."""
        self.in_title = tag == "title" and not self.title
        if tag == "html":
            self.language = dict(attrs).get("lang") or ""
        super().handle_starttag(tag, attrs)
        if tag in HEADINGS:
            self.heading = len(self.parts)

    def handle_endtag(self, tag: str) -> None:
        """Take the text of a heading that ends."""
        self.in_title = False
        if tag in HEADINGS and self.heading is not None:
            title = " ".join("".join(self.parts[self.heading :]).split())[:MOST_TITLE]
            if title:
                self.sections.append((self.heading, title))
            self.heading = None
        super().handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        """Add text that is not hidden, or the title."""
        if self.in_title:
            self.title += data
        super().handle_data(data)

    def break_line(self, tag: str) -> None:
        """Begin a new line unless it would be in a hidden element."""
        if not self.depth:
            super().break_line(tag)

    def result(self) -> ParsedDocument:
        """Return what was read."""
        starts = [0, *accumulate(map(len, self.parts))]
        sections = tuple(Section(starts[part], title) for part, title in self.sections)
        title = " ".join(self.title.split()) or (sections[0].title if sections else "")
        metadata = {"language": self.language[:32]} if self.language else {}
        return ParsedDocument("".join(self.parts), "", title, None, sections, metadata)
