"""Parse a file with the parser of its kind, and the files inside it with those of theirs."""

import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from opengte.errors import MissingExtraError, OpenGTEError
from opengte.search.parse import archives, html, mail, msg, pdf, tables, text, walk
from opengte.search.parse.base import (
    EmbeddedFile,
    ParsedDocument,
    ParsedItem,
    ParseLimits,
    ParseProblem,
    ParseProgress,
    RowFields,
    UnreadableFileError,
)
from opengte.search.parse.encodings import TextEncoding, as_utf8, find_encoding
from opengte.search.parse.kinds import (
    DECLARING,
    GUESSED,
    SNIFFED,
    STREAMED,
    TEXTUAL,
    format_of,
    guess_kind,
)
from opengte.search.parse.markup import code, man, notebook, subtitles, xml
from opengte.search.parse.office import docx, epub, odf, pptx, rtf, sheets

SURROGATES = re.compile("[\ud800-\udfff]")
MOST_DEPTH = 4  # files inside each other: a .gz in a .zip in a .tar in a message
MOST_INSIDE = 50_000
_Told = ParsedItem | ParseProgress
_Found = _Told | EmbeddedFile
CHANGED = "changed while it was read; the next run reads it again"


def parse_file(
    path: str, kind: str, limits: ParseLimits, fields: RowFields
) -> Iterator[ParsedItem | ParseProgress | str]:
    """Yield what is in a file, then the SHA-256 of what was parsed ("" if it is not certain)."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise UnreadableFileError("not a regular file")
        guessed = guess_kind(file.read(SNIFFED)) if kind == GUESSED else kind
        file.seek(0)
        if guessed is None:
            yield ParseProblem("binary", failed=False)
            yield ""
            return
        kind = guessed
        if kind in STREAMED:
            yield from _whole_file(
                _streamed(file, path, kind, limits, fields), kind, limits, fields
            )
            digest = ""
        else:
            content = _content(file, limits)
            digest = hashlib.sha256(content).hexdigest()
        if _changed(before, os.fstat(descriptor)):
            yield ParseProblem(CHANGED, retry=True)
            yield ""
            return
    if kind not in STREAMED:
        items = _decoded(content, path, kind, limits, fields)
        yield from _whole_file(items, kind, limits, fields)
    yield digest


def _content(file: BinaryIO, limits: ParseLimits) -> bytes:
    content = file.read(limits.file_bytes + 1)
    if len(content) > limits.file_bytes:
        raise UnreadableFileError(f"larger than {limits.file_bytes:,} bytes")
    return content


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


def _streamed(
    file: BinaryIO, name: str, kind: str, limits: ParseLimits, fields: RowFields
) -> Iterator[_Found]:
    if kind in ("jsonl", "csv"):
        file, encoding = as_utf8(file)
        return _noted(_rows(file, name, kind, limits, fields), encoding)
    match kind:
        case "parquet":
            return tables.parse_parquet(file, fields)
        case "zip":
            return archives.read_zip(file, limits)
        case "tar":
            return archives.read_tar(file, limits)
        case "compressed":
            return archives.read_compressed(file, name, limits)
    return mail.read_mailbox(file, limits.row_bytes)


def _rows(
    file: BinaryIO, name: str, kind: str, limits: ParseLimits, fields: RowFields
) -> Iterator[ParsedItem]:
    if kind == "jsonl":
        return tables.parse_json_lines(file, fields, limits.row_bytes)
    quoted = not name.lower().endswith(".tsv")
    return tables.parse_csv(file, fields, limits.row_bytes, quoted)


def _decoded(
    content: bytes, name: str, kind: str, limits: ParseLimits, fields: RowFields
) -> Iterator[_Found]:
    """Yield what is in a file that is held as a whole; a text is UTF-8 from here on."""
    if kind not in TEXTUAL:
        return _whole(content, name, kind, limits, fields)
    encoding = find_encoding(content, declares=kind in DECLARING)
    if encoding.codec != "utf-8" or encoding.note:
        content = encoding.decode(content).encode("utf-8", "replace")
    return _noted(_whole(content, name, kind, limits, fields), encoding)


def _noted(items: Iterator[_Found], encoding: TextEncoding) -> Iterator[_Found]:
    """Record the encoding on every document, and what is doubtful about it on the first."""
    note = encoding.note
    for item in items:
        if isinstance(item, ParsedDocument) and (note or encoding.codec != "utf-8"):
            metadata = {"encoding": encoding.codec, **item.metadata}
            warnings = (note, *item.warnings) if note else item.warnings
            item, note = replace(item, metadata=metadata, warnings=warnings), ""
        yield item


def _whole(
    content: bytes, name: str, kind: str, limits: ParseLimits, fields: RowFields
) -> Iterator[_Found]:
    match kind:
        case "pdf":
            return pdf.parse_pdf(content, limits)
        case "sheets":
            return sheets.parse_sheets(content, limits.unpacked_bytes, limits.text_characters)
        case "json":
            return tables.parse_json(content, fields)
        case "code":
            return code.parse_code(content, os.path.splitext(name)[1].lower())
        case _ if kind in PACKAGES:
            return PACKAGES[kind](content, limits.unpacked_bytes)
    return SIMPLE[kind](content)


SIMPLE: dict[str, Callable[[bytes], Iterator[_Found]]] = {
    "text": text.parse_plain_text,
    "markdown": text.parse_markdown,
    "html": html.parse_html,
    "xml": xml.parse_xml_text,
    "man": man.parse_man_page,
    "notebook": notebook.parse_notebook,
    "subtitles": subtitles.parse_subtitles,
    "settings": code.parse_settings,
    "rtf": rtf.parse_rtf,
    "mail": mail.read_message,
    "outlook": msg.read_outlook,
}
PACKAGES = {
    "docx": docx.parse_docx,
    "pptx": pptx.parse_pptx,
    "odf": odf.parse_odf,
    "epub": epub.parse_epub,
}


def _whole_file(
    items: Iterator[_Found], kind: str, limits: ParseLimits, fields: RowFields
) -> Iterator[_Told]:
    """Hand documents on, and those of the files inside this one."""
    inside = _Embedded(limits, fields)
    for item in _bounded(inside.expanded(items, 0), limits):
        own = isinstance(item, ParsedDocument) and not item.format
        yield replace(item, format=kind) if own and isinstance(item, ParsedDocument) else item


class _ExhaustedError(UnreadableFileError):
    """The files inside a file are too many or too large together, at whatever depth."""


class _Embedded:
    """Parses the files inside a file, and those inside them, within one budget."""

    def __init__(self, limits: ParseLimits, fields: RowFields) -> None:
        self._limits, self._fields = limits, fields
        self._bytes, self._files = limits.unpacked_bytes, MOST_INSIDE

    def expanded(self, items: Iterator[_Found], depth: int) -> Iterator[_Told]:
        """Yield items, and the documents of files among them in their place."""
        for item in items:
            if isinstance(item, EmbeddedFile):
                yield from self._inside(item, depth + 1)
            else:
                yield item

    def _inside(self, one: EmbeddedFile, depth: int) -> Iterator[_Told]:
        self._bytes -= len(one.content)
        self._files -= 1
        if self._bytes < 0 or self._files < 0:
            raise _ExhaustedError(
                f"holds more than {MOST_INSIDE:,} files or {self._limits.unpacked_bytes:,} bytes"
            )
        kind, reason = self._kind(one, depth)
        if kind is None:
            yield ParseProblem(reason, failed=False, part=one.row)
            return
        try:
            for item in self.expanded(self._parsed(one, kind), depth):
                yield _placed(item, one, kind)
        except _ExhaustedError:
            raise
        except MissingExtraError as error:
            yield ParseProblem(str(error), failed=False, retry=True, part=one.row)
        except (UnreadableFileError, OpenGTEError, MemoryError) as error:
            yield ParseProblem(str(error) or "needs too much memory", part=one.row)
        except Exception as error:
            reason = f"cannot be parsed ({type(error).__name__}: {str(error)[:200]})"
            yield ParseProblem(reason, part=one.row)

    def _kind(self, one: EmbeddedFile, depth: int) -> tuple[str | None, str]:
        """Return the kind of a file, or why it is not read."""
        if not one.alone and (why := walk.ignored_path(one.name)):
            return None, why
        kind = format_of(one.name)
        if kind is None:
            return None, unknown_format(one.name)
        kind = guess_kind(one.content[:SNIFFED]) if kind == GUESSED else kind
        if depth > MOST_DEPTH:
            return None, f"more than {MOST_DEPTH} files deep inside each other"
        return kind, "binary"

    def _parsed(self, one: EmbeddedFile, kind: str) -> Iterator[_Found]:
        if kind in STREAMED:
            return _streamed(io.BytesIO(one.content), one.name, kind, self._limits, self._fields)
        return _decoded(one.content, one.name, kind, self._limits, self._fields)


def _placed(item: _Told, one: EmbeddedFile, kind: str) -> _Told:
    """Return what was found in a file inside another one, as a part of the other."""

    def joined(part: str) -> str:
        return f"{one.row}/{part}" if one.row and part else one.row or part

    if isinstance(item, ParseProgress):
        return item
    if isinstance(item, ParseProblem):
        return replace(item, part=joined(item.part))
    parent = one.parent if item.parent is None else joined(item.parent)
    return replace(item, row=joined(item.row), format=item.format or kind, parent=parent)


def unknown_format(name: str) -> str:
    """Return the reason for which a file of a kind that nobody reads is skipped."""
    return f"unknown format ({os.path.splitext(name)[1].lower() or 'no suffix'})"


def _bounded(items: Iterator[_Told], limits: ParseLimits) -> Iterator[_Told]:
    """Hand documents on, but for those with too much text to hold."""
    for item in items:
        if isinstance(item, ParsedDocument) and len(item.text) > limits.text_characters:
            yield ParseProblem(
                f"a document of {len(item.text):,} characters, more than "
                f"{limits.text_characters:,}: split it",
                item.line,
            )
        else:
            yield item if isinstance(item, ParseProgress) else _valid(item)


def _valid(item: ParsedItem) -> ParsedItem:
    """Replace lone surrogates, which JSON may hold and no store takes."""
    if isinstance(item, ParseProblem):
        return replace(item, reason=_clean(item.reason), part=_clean(item.part))
    return replace(
        item,
        text=_clean(item.text),
        row=_clean(item.row),
        title=" ".join(_clean(item.title).split()),
        sections=tuple(replace(one, title=_clean(one.title)) for one in item.sections),
        metadata={
            _clean(key): _clean(value) if isinstance(value, str) else value
            for key, value in item.metadata.items()
        },
        warnings=tuple(map(_clean, item.warnings)),
    )


def _clean(text: str) -> str:
    return SURROGATES.sub("\ufffd", text)
