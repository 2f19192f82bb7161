"""Choose the parser of a file by its suffix; a file that was named is read as plain text."""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from opengte.search.parse import docx, html, mail, pdf, tables, text
from opengte.search.parse.base import (
    ParsedDocument,
    ParsedItem,
    ParseLimits,
    ParseProblem,
    ParseProgress,
    RowFields,
    UnreadableFileError,
)
from opengte.search.parse.encodings import TextEncoding, as_utf8, find_encoding

SURROGATES = re.compile("[\ud800-\udfff]")
CHANGED = "changed while it was read; the next run reads it again"

CODE = (
    ".c .cc .cfg .clj .cpp .cs .css .cu .dart .el .ex .exs .f90 .go .groovy .h .hpp .hs .ini .ipp "
    ".java .jl .js .jsx .kt .lua .m .mjs .ml .nix .pas .php .pl .pm .proto .ps1 .py .pyi .pyx .r "
    ".rb .rs .scala .scss .sh .sql .svelte .swift .tf .toml .ts .tsx .vb .vim .vue .yaml .yml .zig"
)

_KINDS = {
    "text": ".txt .text .rst .adoc .org .tex .log .srt .vtt",
    "markdown": ".md .markdown .mdx",
    "html": ".html .htm .xhtml",
    "pdf": ".pdf",
    "docx": ".docx",
    "mail": ".eml",
    "mbox": ".mbox",
    "jsonl": ".jsonl .ndjson",
    "json": ".json",
    "csv": ".csv .tsv",
    "parquet": ".parquet",
    "code": CODE,
}
SUFFIXES = {suffix: kind for kind, names in _KINDS.items() for suffix in names.split()}
STREAMED = ("jsonl", "csv", "parquet", "mbox")  # read row by row, however large they are
TEXTUAL = ("text", "markdown", "html", "code", "json")
DECLARING = ("html", "code")  # can name their encoding


def format_of(name: str) -> str | None:
    """Return the kind of a file by its name, None if it is not known."""
    return SUFFIXES.get(os.path.splitext(name)[1].lower())


def parse_file(
    path: str, kind: str, limits: ParseLimits, fields: RowFields
) -> Iterator[ParsedItem | ParseProgress | str]:
    """Yield what is in a file, then the SHA-256 of what was parsed ("" if it is not certain)."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise UnreadableFileError("not a regular file")
        if kind in STREAMED:
            yield from _streamed(file, path, kind, limits, fields)
            digest = ""
        else:
            content = _content(file, limits)
            digest = hashlib.sha256(content).hexdigest()
        if _changed(before, os.fstat(descriptor)):
            yield ParseProblem(CHANGED, retry=True)
            yield ""
            return
    if kind not in STREAMED:
        yield from _bounded(_decoded(content, kind, limits, fields), limits)
    yield digest


def _content(file: BinaryIO, limits: ParseLimits) -> bytes:
    content = file.read(limits.file_bytes + 1)
    if len(content) > limits.file_bytes:
        raise UnreadableFileError(f"larger than {limits.file_bytes:,} bytes")
    return content


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


def _streamed(
    file: BinaryIO, path: str, kind: str, limits: ParseLimits, fields: RowFields
) -> Iterator[ParsedItem | ParseProgress]:
    if kind in ("jsonl", "csv"):
        file, encoding = as_utf8(file)
    found: Iterator[ParsedItem | ParseProgress]
    match kind:
        case "jsonl":
            found = tables.parse_json_lines(file, fields, limits.row_bytes)
        case "csv":
            quoted = not path.lower().endswith(".tsv")
            found = tables.parse_csv(file, fields, limits.row_bytes, quoted)
        case "parquet":
            found = tables.parse_parquet(file, fields)
        case _:
            found = mail.parse_mbox(path, limits.row_bytes)
    if kind in ("jsonl", "csv"):
        found = _noted(found, encoding)
    yield from _bounded(found, limits)


def _decoded(
    content: bytes, kind: str, limits: ParseLimits, fields: RowFields
) -> Iterator[ParsedItem | ParseProgress]:
    """Yield what is in a file that is held as a whole; a text is UTF-8 from here on."""
    if kind not in TEXTUAL:
        return _whole(content, kind, limits, fields)
    encoding = find_encoding(content, declares=kind in DECLARING)
    if encoding.codec != "utf-8" or encoding.note:
        content = encoding.decode(content).encode("utf-8", "replace")
    return _noted(_whole(content, kind, limits, fields), encoding)


def _noted(
    items: Iterator[ParsedItem | ParseProgress], encoding: TextEncoding
) -> Iterator[ParsedItem | ParseProgress]:
    """Record the encoding on every document, and what is doubtful about it on the first."""
    note = encoding.note
    for item in items:
        if isinstance(item, ParsedDocument) and (note or encoding.codec != "utf-8"):
            metadata = {"encoding": encoding.codec, **item.metadata}
            warnings = (note, *item.warnings) if note else item.warnings
            item, note = replace(item, metadata=metadata, warnings=warnings), ""
        yield item


def _whole(
    content: bytes, kind: str, limits: ParseLimits, fields: RowFields
) -> Iterator[ParsedItem | ParseProgress]:
    simple: dict[str, Callable[[bytes], Iterator[ParsedItem]]] = {
        "text": text.parse_plain_text,
        "code": text.parse_code,
        "markdown": text.parse_markdown,
        "html": html.parse_html,
        "mail": mail.parse_eml,
    }
    match kind:
        case "pdf":
            return pdf.parse_pdf(content, limits)
        case "docx":
            return docx.parse_docx(content, limits.unpacked_bytes)
        case "json":
            return tables.parse_json(content, fields)
    return simple[kind](content)


def _bounded(
    items: Iterator[ParsedItem] | Iterator[ParsedItem | ParseProgress], limits: ParseLimits
) -> Iterator[ParsedItem | ParseProgress]:
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
        return replace(item, reason=_clean(item.reason))
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
