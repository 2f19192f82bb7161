"""PDF files, by PDFium: the text of each page; a page is a section."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from opengte.search.parse.base import (
    ParsedDocument,
    ParsedItem,
    Section,
    UnreadableFileError,
    scalar_fields,
)

MOST_PAGES = 20_000
LIGATURES = re.compile("[\ufb00-\ufb06]")
HYPHEN = re.compile("(?<=[^\\W\\d_])[\u00ad\ufffe\u0002]\\s*")  # a word cut at the end of a line


def parse_pdf(content: bytes, characters: int) -> Iterator[ParsedItem]:
    """Yield the text of a PDF, with a warning for pages that have none (scans, for one)."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        raise UnreadableFileError(_reason(str(error))) from error
    with document:
        count = len(document)
        if count > MOST_PAGES:
            raise UnreadableFileError(f"has {count:,} pages, more than {MOST_PAGES:,}")
        told = document.get_metadata_dict(skip_empty=True)
        yield _document(_pages(document, count, characters), told)


def _reason(message: str) -> str:
    if "password" in message.lower():
        return "encrypted: it opens only with a password"
    return f"not a PDF that can be read ({message})"


def _pages(document: Any, count: int, characters: int) -> Iterator[str]:
    import pypdfium2

    length = 0
    for number in range(count):
        try:
            page = document[number]
            text = page.get_textpage().get_text_range(errors="replace")
            page.close()
        except pypdfium2.PdfiumError:
            text = ""  # counted as an empty page
        length += len(text)
        if length > characters:
            raise UnreadableFileError(f"has more than {characters:,} characters of text")
        yield _cleaned(text)


def _cleaned(text: str) -> str:
    text = HYPHEN.sub("", text.replace("\r\n", "\n").replace("\0", ""))
    return LIGATURES.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)


def _document(pages: Iterator[str], told: dict[str, Any]) -> ParsedDocument:
    parts: list[str] = []
    sections, empty, length = [], [], 0
    for number, text in enumerate(pages, 1):
        if len(text.strip()) < 8:
            empty.append(number)
        else:
            sections.append(Section(length, f"page {number}"))
        parts.append(text + "\n\n")
        length += len(text) + 2
    names = {"Author": "author", "CreationDate": "created", "Subject": "subject"}
    metadata = {ours: told[theirs] for theirs, ours in names.items() if told.get(theirs)}
    whole = "".join(parts)
    return ParsedDocument(
        whole,
        title=str(told.get("Title", ""))[:200],
        sections=tuple(sections),
        metadata=scalar_fields({**metadata, "pages": len(parts)}),
        warnings=(*_empty(empty, len(parts)), *_garbled(whole)),
    )


def _empty(empty: list[int], count: int) -> tuple[str, ...]:
    if not empty:
        return ()
    shown = ", ".join(map(str, empty[:10])) + (" …" if len(empty) > 10 else "")
    return (f"{len(empty)} of {count} pages have no text ({shown}): scans need OCR first",)


def _garbled(text: str) -> tuple[str, ...]:
    """Return a warning where a font does not say which characters its shapes are."""
    sample = text[:200_000]
    bad = sum(1 for c in sample if c == "\ufffd" or unicodedata.category(c) in ("Co", "Cn", "Cc"))
    bad -= sample.count("\n") + sample.count("\t") + sample.count("\r") + sample.count("\f")
    return (f"{bad} characters are unreadable",) if bad > max(8, len(sample) // 100) else ()
