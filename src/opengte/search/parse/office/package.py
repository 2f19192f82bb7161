"""Zip packages of XML: unpacked within limits, parsed without entities."""

import io
import posixpath
import zipfile
import zlib
from typing import Any

from opengte.search.parse.base import Scalar, UnreadableFileError

OLE = b"\xd0\xcf\x11\xe0"  # an encrypted document is one of these, and so is an old .doc
TITLES = ("title",)
AUTHORS = ("creator", "initial-creator")
LINKS = "{http://schemas.openxmlformats.org/package/2006/relationships}"


class OfficePackage:
    """The parts of a package by name. UnreadableFileError if it is damaged, locked or too large."""

    def __init__(self, content: bytes, unpacked: int) -> None:
        if content.startswith(OLE):
            raise UnreadableFileError(
                "encrypted, or of an old format such as .doc: save it in the new one, without a "
                "password"
            )
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(content))
            self.names = self._archive.namelist()
            self._check_size(unpacked)
        except BROKEN as error:
            raise damaged(error) from error

    def xml(self, name: str) -> Any:
        """Return the root of a part, None if there is no such part."""
        return None if name not in self.names else parse_xml(self._archive.read(name))

    def read(self, name: str) -> bytes:
        """Return the bytes of a part, b"" if there is no such part."""
        return self._archive.read(name) if name in self.names else b""

    def links(self, name: str) -> dict[str, tuple[str, str]]:
        """Return what a part of an Office Open XML document links to: id to kind and part."""
        folder, base = posixpath.split(name)
        root = self.xml(f"{folder}/_rels/{base}.rels")
        found = {}
        for link in () if root is None else root.iter(LINKS + "Relationship"):
            kind = link.get("Type", "").rpartition("/")[2]
            path = posixpath.normpath(posixpath.join(folder, link.get("Target", "")))
            found[link.get("Id", "")] = kind, path.lstrip("/")
        return found

    def properties(self, part: str) -> tuple[str, dict[str, Scalar]]:
        """Return the title and the metadata that a part of properties states."""
        root = self.xml(part)
        said: dict[str, str] = {}
        for element in () if root is None else root.iter():
            text = (element.text or "").strip()
            if text and isinstance(element.tag, str):
                said.setdefault(local_name(element), text[:200])
        author = next((said[name] for name in AUTHORS if name in said), "")
        return said.get("title", ""), {"author": author} if author else {}

    def _check_size(self, unpacked: int) -> None:
        """Unpack every part once, counting: what a package says of its sizes may be a lie."""
        total = 0
        for part in self._archive.infolist():
            if part.flag_bits & 1:
                raise UnreadableFileError("encrypted: it opens only with a password")
            with self._archive.open(part) as file:
                while chunk := file.read(2**20):
                    total += len(chunk)
                    if total > unpacked:
                        raise UnreadableFileError(f"unpacks to more than {unpacked:,} bytes")


BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError)


def damaged(error: Exception) -> UnreadableFileError:
    """Return the error for a file that is not what its name says."""
    short = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return UnreadableFileError(f"not a document that can be read ({short})")


def parse_xml(content: bytes) -> Any:
    """Return the root of an XML text; no entity is looked up, none grows without bound."""
    from lxml import etree

    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    try:
        return etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise damaged(error) from error


def local_name(element: Any) -> str:
    """Return the name of an element without its namespace, "" for a comment."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def attribute(element: Any, name: str) -> str:
    """Return an attribute by its name without a namespace."""
    return next(
        (value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), ""
    )
