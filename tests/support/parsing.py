"""What tests of parsers share: a file parsed in this process, small packages of XML."""

import io
import zipfile

from opengte.search.parse import formats, kinds
from opengte.search.parse.base import ParsedDocument, ParseLimits, RowFields


def parse(path, content: bytes | str | None = None, limits=None):
    """Return documents and problems of a file, without the hash at the end."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    kind = kinds.format_of(path.name) or "text"
    items = formats.parse_file(str(path), kind, limits or ParseLimits(), RowFields())
    return [item for item in items if not isinstance(item, str)]


def one(path, content=None, **options) -> ParsedDocument:
    """Return the one document of a file; its headings must stand where its sections begin."""
    (item,) = parse(path, content, **options)
    assert isinstance(item, ParsedDocument), item
    for section in item.sections:
        assert item.text[section.start :].startswith(section.title)
    return item


def titles(document: ParsedDocument) -> list[str]:
    return [section.title for section in document.sections]


def packed(parts: dict[str, str | bytes]) -> bytes:
    """Return a zip archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return made.getvalue()


def linked(**links: str) -> str:
    """Return the relationships of a part of an Office document: id=kind:target."""
    rows = "".join(
        f'<Relationship Id="{name}" Type="http://x/{kind}" Target="{target}"/>'
        for name, (kind, target) in ((n, v.split(":")) for n, v in links.items())
    )
    space = "http://schemas.openxmlformats.org/package/2006/relationships"
    return f'<Relationships xmlns="{space}">{rows}</Relationships>'
