"""Word documents, by mammoth: paragraphs, tables, notes; what is styled as a heading is one."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from xml.etree import ElementTree

from opengte.search.parse import html
from opengte.search.parse.base import ParsedDocument, ParsedItem, UnreadableFileError

OLE = b"\xd0\xcf\x11\xe0"  # an encrypted document is one of these, and so is an old .doc
CORE = "docProps/core.xml"
TITLE = "{http://purl.org/dc/elements/1.1/}title"
AUTHOR = "{http://purl.org/dc/elements/1.1/}creator"


def parse_docx(content: bytes, unpacked: int) -> Iterator[ParsedItem]:
    """Yield the text of a DOCX file; Unreadable for one that unpacks to too much."""
    import mammoth

    if content.startswith(OLE):
        raise UnreadableFileError("encrypted, or an old .doc: save it as .docx without a password")
    told = _checked(content, unpacked)
    try:
        made = mammoth.convert_to_html(
            io.BytesIO(content),
            convert_image=mammoth.images.img_element(lambda image: {"src": ""}),
        )
    except RecursionError:
        raise UnreadableFileError("is nested too deeply") from None
    except Exception as error:  # mammoth raises whatever a damaged file makes it meet
        raise UnreadableFileError(
            f"not a Word document that can be read ({_short(error)})"
        ) from error
    found = html.extract_page(made.value)
    failed = [message.message for message in made.messages if message.type == "error"]
    yield ParsedDocument(
        found.text,
        title=(told.get(TITLE) or found.title)[:200],
        sections=found.sections,
        metadata={"author": told[AUTHOR][:200]} if told.get(AUTHOR) else {},
        warnings=tuple(failed[:3]),
    )


def _checked(content: bytes, unpacked: int) -> dict[str, str]:
    """Unpack every part once, counting, and return what the document says of itself."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            total = 0
            for part in archive.infolist():
                if part.flag_bits & 1:
                    raise UnreadableFileError("encrypted: it opens only with a password")
                with archive.open(part) as file:
                    while chunk := file.read(2**20):
                        total += len(chunk)
                        if total > unpacked:
                            raise UnreadableFileError(f"unpacks to more than {unpacked:,} bytes")
            return _core(archive) if CORE in archive.namelist() else {}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
        raise UnreadableFileError(
            f"not a Word document that can be read ({_short(error)})"
        ) from error


def _core(archive: zipfile.ZipFile) -> dict[str, str]:
    try:
        root = ElementTree.fromstring(archive.read(CORE))  # expat bounds what entities become
    except ElementTree.ParseError:
        return {}
    return {child.tag: (child.text or "").strip() for child in root if child.text}


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]
