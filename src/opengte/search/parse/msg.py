"""Outlook messages (.msg), by python-oxmsg; attachments are files of their own."""

import dataclasses
from collections.abc import Iterator
from email.header import decode_header, make_header
from typing import Any

from opengte.errors import MissingExtraError
from opengte.search.parse import html
from opengte.search.parse.base import (
    EmbeddedFile,
    ParsedDocument,
    ParsedItem,
    ParseProblem,
    UnreadableFileError,
    scalar_fields,
)

EMBEDDED = "__substg1.0_3701000D"  # the storage of a message that is attached
PROPERTIES = "__properties_version1.0"
RTF_BODY = 0x1009


def read_outlook(content: bytes) -> Iterator[EmbeddedFile | ParsedItem]:
    """Yield the text of a message, then its attachments and the messages in it."""
    try:
        from oxmsg import Message
    except ImportError:
        raise MissingExtraError("python-oxmsg", "search", "Reading .msg files") from None
    try:
        message = Message.load(content)
        yield from _message(message, "", None)
    except Exception as error:  # the libraries raise whatever a damaged file makes them meet
        short = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UnreadableFileError(f"not an Outlook message ({short})") from error


def _message(message: Any, row: str, parent: str | None) -> Iterator[EmbeddedFile | ParsedItem]:
    headers = {name.lower(): value for name, value in message.message_headers.items()}
    people = ", ".join(filter(None, (one.name or one.email_address for one in message.recipients)))
    attached = [(_name(one, n), one) for n, one in enumerate(message.attachments, 1)]
    said = {
        "from": message.sender,
        "to": headers.get("to") or people,
        "cc": headers.get("cc"),
        "date": message.sent_date,
        "attachments": ", ".join(name for name, _ in attached)[:1000],
    }
    text: str = message.body or ""
    warnings: tuple[str, ...] = ()
    if not text.strip() and message.html_body:
        text = html.extract_page(message.html_body).text
    if not text.strip() and message.properties.binary_prop_value(RTF_BODY):
        warnings = ("its text is compressed RTF, which is not read",)
    kept = scalar_fields({name: _decoded(value) for name, value in said.items() if value})
    yield ParsedDocument(
        text, row, message.subject[:200], metadata=kept, warnings=warnings, parent=parent
    )
    for name, one in attached:
        place = f"{row}/{name}" if row else name
        inside = next((s for s in one._storage.storages if s.name == EMBEDDED), None)
        if inside is not None:
            yield from _message(type(message)(_as_root(inside)), place, row)
        elif one.file_bytes is not None:
            yield EmbeddedFile(name, one.file_bytes, parent=row)
        else:
            yield ParseProblem("an attachment without content", failed=False, part=place)


def _decoded(value: Any) -> Any:
    """Return a header without line breaks and encoded words."""
    if not isinstance(value, str):
        return value
    try:
        value = str(make_header(decode_header(value)))
    except (ValueError, LookupError):  # an encoding that does not exist, or does not fit
        pass
    return " ".join(value.split())[:1000]


def _name(attachment: Any, number: int) -> str:
    name = attachment.file_name or attachment.properties.str_prop_value(0x3001)
    return " ".join((name or f"attachment {number}").replace("/", "_").split())


def _as_root(storage: Any) -> Any:
    """Return the storage of an embedded message like one of a file, whose header is longer."""
    streams = tuple(
        dataclasses.replace(one, bytes_=one.bytes_[:24] + bytes(8) + one.bytes_[24:])
        if one.name == PROPERTIES
        else one
        for one in storage.streams
    )
    return dataclasses.replace(storage, streams=streams)
