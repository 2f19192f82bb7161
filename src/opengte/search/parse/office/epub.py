"""E-books (EPUB): the chapters in reading order, each a section with its own headings."""

import posixpath
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from opengte.search.parse import html
from opengte.search.parse.base import ParsedItem, Scalar, Section
from opengte.search.parse.office.package import OfficePackage, attribute, damaged
from opengte.search.parse.outline import OutlineBuilder
from opengte.search.parse.text import decode_text

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"
FIELDS = {
    "title": "title",
    "creator": "author",
    "language": "language",
    "date": "date",
    "publisher": "publisher",
}


def parse_epub(content: bytes, unpacked: int) -> Iterator[ParsedItem]:
    """Yield the text of a book; UnreadableFileError if it is locked or no book."""
    package = OfficePackage(content, unpacked)
    container = package.xml(CONTAINER)
    places = () if container is None else container.iter("{*}rootfile")
    opf = next((attribute(one, "full-path") for one in places), "")
    root = package.xml(opf)
    if root is None:
        raise damaged(KeyError(opf or CONTAINER))
    files = {attribute(one, "id"): attribute(one, "href") for one in root.iter("{*}item")}
    out, missing = OutlineBuilder(), 0
    for reference in root.iter("{*}itemref"):
        path = unquote(files.get(attribute(reference, "idref"), ""))
        page = package.read(posixpath.normpath(posixpath.join(posixpath.dirname(opf), path)))
        missing += not page
        chapter = html.extract_page(decode_text(page, declares=True)[0])
        alone = (Section(0, chapter.title),) if chapter.title else ()
        out.extend(chapter.text, chapter.sections or alone)
    if ENCRYPTION in package.names and not out.blocks:
        raise damaged(ValueError("it is encrypted"))
    title, metadata = _metadata(root)
    yield out.document(title, metadata, [f"{missing} chapters are missing"] * bool(missing))


def _metadata(root: Any) -> tuple[str, dict[str, Scalar]]:
    said = {
        ours: " ".join(one.text.split())[:200]
        for theirs, ours in FIELDS.items()
        for one in root.iterfind(f".//{{*}}metadata/{{*}}{theirs}")
        if one.text
    }
    return said.pop("title", ""), dict(said)
