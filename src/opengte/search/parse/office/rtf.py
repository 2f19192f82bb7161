"""Rich Text Format, by striprtf: the text, without its headings."""

from collections.abc import Callable, Iterator

from opengte.errors import MissingExtraError
from opengte.search.parse.base import ParsedDocument, ParsedItem, UnreadableFileError


def parse_rtf(content: bytes) -> Iterator[ParsedItem]:
    """Yield the text of an RTF file."""
    yield ParsedDocument(rtf_text(content))


def rtf_text(content: bytes) -> str:
    """Return the text of an RTF file; UnreadableFileError if it is none."""
    try:
        from striprtf.striprtf import rtf_to_text
    except ImportError:
        raise MissingExtraError("striprtf", "search", "Reading RTF") from None
    if not content.lstrip().startswith(b"{\\rtf"):
        raise UnreadableFileError("not RTF, though its name says so")
    convert: Callable[..., str] = rtf_to_text
    text = convert(content.decode("latin-1"), errors="replace")
    lines = (line.strip().strip("|").strip() for line in text.replace("\xa0", " ").split("\n"))
    return "\n".join(line.replace("|", " | ") for line in lines)
