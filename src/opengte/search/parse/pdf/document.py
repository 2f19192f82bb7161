"""PDF files, by PDFium: the text of each page in reading order; a page is a section."""

import ctypes
import re
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from opengte.search.parse.base import (
    ParsedDocument,
    ParsedItem,
    ParseLimits,
    ParseProgress,
    Section,
    UnreadableFileError,
    scalar_fields,
)
from opengte.search.parse.pdf import ocr
from opengte.search.parse.pdf.annotations import annotation_pieces, with_annotations
from opengte.search.parse.pdf.glyphs import RTL, Characters, run_boxes
from opengte.search.parse.pdf.hyphens import join_cut_words
from opengte.search.parse.pdf.metadata import judged_title, told_fields
from opengte.search.parse.pdf.reading_order import is_drawn_in_order, read_in_order
from opengte.search.parse.pdf.right_to_left import words_in_logical_order

MOST_PAGES = 20_000
FEW = 8  # characters: a page with fewer has no text of its own
COMPATIBLE = re.compile("[\ufb00-\ufb4f\ufb50-\ufdff\ufe70-\ufefc]")  # ligatures and shapes

UNREADABLE = re.compile(  # not assigned, for private use, or for control
    "[\x01\x03-\x08\x0b\x0e-\x1f\x7f-\x9f\ufffd\ue000-\uf8ff\U000f0000-\U0010ffff]+"
)


def parse_pdf(content: bytes, limits: ParseLimits) -> Iterator[ParsedItem | ParseProgress]:
    """Yield the text of a PDF, with warnings for pages whose text could not be read."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        raise UnreadableFileError(_reason(str(error))) from error
    with document:
        count = len(document)
        if count > MOST_PAGES:
            raise UnreadableFileError(f"has {count:,} pages, more than {MOST_PAGES:,}")
        if document.get_formtype() != pypdfium2.raw.FORMTYPE_NONE:
            document.init_forms()
        pages, length = [], 0
        for number in range(count):
            pages.append(_page(document, number))
            length += len(pages[-1].text)
            if length > limits.text_characters:
                most = limits.text_characters
                raise UnreadableFileError(f"has more than {most:,} characters of text")
        recognised = _Recognition(document, limits)
        for number, page in enumerate(pages):
            if page.is_picture:
                pages[number] = recognised.page(number, page)
                if number + 1 in recognised.read:
                    yield ParseProgress()
        yield _document(pages, document.get_metadata_dict(skip_empty=True), recognised)


def _reason(message: str) -> str:
    if "password" in message.lower():
        return "encrypted: it opens only with a password"
    return f"not a PDF that can be read ({message})"


@dataclass(frozen=True)
class _PageText:
    text: str
    is_picture: bool = False  # something is drawn, and what it says is not known
    is_damaged: bool = False


def _page(document: Any, number: int) -> _PageText:
    """Return the text of a page."""
    import pypdfium2
    import pypdfium2.raw as pdfium

    try:
        page = document[number]
    except pypdfium2.PdfiumError:
        return _PageText("", is_damaged=True)
    try:
        text = _in_reading_order(page, document.formenv)
        unknown = len(text.strip()) < FEW or _unreadable(text) > len(text) // 3
        return _PageText(text, unknown and pdfium.FPDFPage_CountObjects(page.raw) > 0)
    except pypdfium2.PdfiumError:
        return _PageText("", is_damaged=True)
    finally:
        page.close()


def _in_reading_order(page: Any, form: Any) -> str:
    textpage = page.get_textpage()
    try:
        drawn = textpage.get_text_range(errors="replace")
        notes = annotation_pieces(page, form)
        rtl = RTL.search(drawn)
        if not notes and not rtl and is_drawn_in_order(run_boxes(textpage)):
            return str(drawn)
        words = words_in_logical_order(Characters(textpage, drawn))
        ordered = read_in_order(with_annotations(words, notes), rebuilt=bool(rtl or notes))
        return drawn if ordered is None else ordered
    finally:
        textpage.close()


class _Recognition:
    """Reads pages that are pictures, and keeps count of those that it could not read."""

    def __init__(self, document: Any, limits: ParseLimits) -> None:
        self.document, self.limits = document, limits
        self.languages: tuple[str, ...] = ()
        self.read: list[int] = []
        self.unread: dict[str, list[int]] = defaultdict(list)  # by reason
        self.end = time.monotonic() + limits.ocr_seconds

    def page(self, number: int, page: _PageText) -> _PageText:
        """Return the text that a page shows, or what there was."""
        try:
            text = self._text(number)
        except ocr.OcrError as error:
            self.unread[str(error)].append(number + 1)
            return page
        self.read.append(number + 1)
        return _PageText(text) if len(text.strip()) >= len(page.text.strip()) // 2 else page

    def _text(self, number: int) -> str:
        if not self.languages:
            self.languages = ocr.chosen_languages(self.limits.ocr, _language(self.document))
        if len(self.read) >= self.limits.ocr_pages:
            raise ocr.OcrError(f"{self.limits.ocr_pages} pages of a file are read by OCR")
        left = self.end - time.monotonic()
        if left <= 0:
            raise ocr.OcrError(f"OCR of one file ends after {self.limits.ocr_seconds:g} s")
        page = self.document[number]
        try:
            return ocr.page_to_text(page, self.languages, min(left, self.limits.seconds * 0.8))
        finally:
            page.close()

    def warnings(self, count: int) -> Iterator[str]:
        """Yield a warning for each reason for which pages of a document were not read."""
        for reason, pages in self.unread.items():
            yield _named(pages, count, f"have no text, and OCR did not read them: {reason}")


def _language(document: Any) -> str:
    """Return the language that a document names, "" for none."""
    import pypdfium2.raw as pdfium

    buffer = ctypes.create_string_buffer(64)
    characters = ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR))
    size = pdfium.FPDFCatalog_GetLanguage(document.raw, characters, 64)
    return buffer.raw[: max(size - 2, 0)].decode("utf-16-le", "replace") if size <= 64 else ""


def _document(
    pages: Sequence[_PageText], told: Mapping[str, str], recognised: _Recognition
) -> ParsedDocument:
    parts = _cleaned([page.text for page in pages])
    starts = accumulate((len(part) for part in parts), initial=0)
    sections = [
        Section(start, f"page {number}")
        for number, (start, part) in enumerate(zip(starts, parts, strict=False), 1)
        if len(part.strip()) >= FEW
    ]
    whole = "".join(parts)
    metadata: dict[str, Any] = {**told_fields(told), "pages": len(parts)}
    if recognised.read:
        metadata["ocr_pages"] = len(recognised.read)
        metadata["ocr_languages"] = "+".join(recognised.languages)
    damaged = [number for number, page in enumerate(pages, 1) if page.is_damaged]
    return ParsedDocument(
        whole,
        title=judged_title(str(told.get("Title", ""))),
        sections=tuple(sections),
        metadata=scalar_fields(metadata),
        warnings=(
            *recognised.warnings(len(parts)),
            *([_named(damaged, len(parts), "are damaged")] if damaged else []),
            *_garbled(whole),
        ),
    )


def _cleaned(texts: Sequence[str]) -> list[str]:
    """Return the texts of pages, each with a blank line after it, and words whole."""
    whole = "\f".join(text.replace("\f", "\n").replace("\0", "") for text in texts)
    whole = join_cut_words(whole.replace("\r\n", "\n"))
    whole = COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), whole)
    return [part + "\n\n" for part in whole.split("\f")]


def _named(pages: Sequence[int], count: int, what: str) -> str:
    shown = ", ".join(map(str, pages[:10])) + (" …" if len(pages) > 10 else "")
    return f"{len(pages)} of {count} pages ({shown}) {what}"


def _garbled(text: str) -> tuple[str, ...]:
    """Return a warning where a font does not say which characters its shapes are."""
    sample = text[:200_000]
    bad = _unreadable(sample)
    return (f"{bad} characters are unreadable",) if bad > max(8, len(sample) // 100) else ()


def _unreadable(text: str) -> int:
    """Return how many characters are none that people read."""
    return sum(map(len, UNREADABLE.findall(text)))
