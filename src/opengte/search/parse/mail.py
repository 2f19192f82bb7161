"""E-mail: .eml messages and mailboxes; the headers that people search by are metadata.

Attachments and forwarded messages are files of their own, with the message as their parent.
"""

from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from mimetypes import guess_extension
from typing import Any, BinaryIO

from opengte.search.parse import html
from opengte.search.parse.base import (
    EmbeddedFile,
    ParsedDocument,
    ParsedItem,
    ParseProblem,
    scalar_fields,
)

HEADERS = {"From": "from", "To": "to", "Cc": "cc", "List-Id": "list"}


def read_message(content: bytes, row: str = "") -> Iterator[EmbeddedFile | ParsedItem]:
    """Yield the text of one message, then its attachments."""
    parsed = message_from_bytes(content, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    attached = list(_attachments(parsed))
    yield _document(parsed, row, [name for name, _ in attached])
    for name, part in attached:
        try:
            inside = _content(part)
        except Exception as error:  # the library fails on some malformed parts
            yield ParseProblem(f"cannot be decoded ({type(error).__name__}: {error})", part=name)
            continue
        yield EmbeddedFile(name, inside, parent=row)


def read_mailbox(file: BinaryIO, row_bytes: int) -> Iterator[EmbeddedFile | ParsedItem]:
    """Yield every message of a mailbox, with its attachments."""
    for number, content in enumerate(_messages(file, row_bytes), 1):
        if content is None:
            yield ParseProblem(f"message {number} is larger than {row_bytes:,} bytes")
            continue
        try:
            name = str(message_from_bytes(content, policy=policy.default).get("Message-ID", ""))
            yield from read_message(content, name.strip() or str(number))
        except Exception as error:  # one broken message is not the mailbox
            yield ParseProblem(f"message {number} cannot be read ({type(error).__name__}: {error})")


def _messages(file: BinaryIO, most: int) -> Iterator[bytes | None]:
    """Yield the messages between lines that start with `From `; None for one that is too large."""
    lines: list[bytes] = []
    size, begun, blank = 0, False, True
    while line := file.readline(most + 1):
        if blank and line.startswith(b"From "):
            if begun:
                yield None if size > most else b"".join(lines)
            lines, size, begun = [], 0, True
        elif begun:
            size += len(line)
            if size > most:
                lines = []
            else:
                lines.append(line)
        blank = not line.strip()
    if begun:
        yield None if size > most else b"".join(lines)


def _attachments(parsed: EmailMessage) -> Iterator[tuple[str, Any]]:
    """Yield the attachments with names that differ."""
    seen: set[str] = set()
    try:
        parts = list(parsed.iter_attachments())
    except (AttributeError, KeyError, TypeError):  # a message that says it has parts and has none
        return
    for number, part in enumerate(parts, 1):
        forwarded = part.get_content_type() == "message/rfc822"
        suffix = ".eml" if forwarded else guess_extension(part.get_content_type()) or ""
        name = " ".join((part.get_filename() or f"attachment {number}{suffix}").split())
        if forwarded and not name.lower().endswith(".eml"):
            name += ".eml"
        while name in seen:
            name = f"{number} {name}"
        seen.add(name)
        yield name, part


def _content(part: Any) -> bytes:
    if part.get_content_type() == "message/rfc822":
        return bytes(part.get_payload(0).as_bytes())
    return bytes(part.get_payload(decode=True) or b"")


def _document(parsed: EmailMessage, row: str, attached: list[str]) -> ParsedDocument:
    headers = {ours: _header(parsed, theirs) for theirs, ours in HEADERS.items()}
    metadata = {**headers, "date": _date(parsed), "attachments": ", ".join(attached)[:1000]}
    body, warnings = _body(parsed)
    return ParsedDocument(
        body,
        row=row,
        title=_header(parsed, "Subject")[:200],
        metadata=scalar_fields({name: value for name, value in metadata.items() if value}),
        warnings=warnings,
    )


def _header(parsed: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(parsed.get(name, "")).split())
    except Exception:  # the library fails on some malformed headers
        return ""


def _date(parsed: EmailMessage) -> str:
    try:
        return parsedate_to_datetime(_header(parsed, "Date")).isoformat()
    except (ValueError, TypeError, IndexError):
        return ""


def _body(parsed: EmailMessage) -> tuple[str, tuple[str, ...]]:
    try:
        part = parsed.get_body(preferencelist=("plain", "html"))
        if part is None:
            return "", ("has no text",)
        text = _decoded(part)
    except Exception as error:
        return "", (f"its text cannot be decoded ({type(error).__name__}: {error})",)
    if part.get_content_type() == "text/html":
        text = html.extract_page(text).text
    bad = text.count("\ufffd")
    return text, (f"{bad} characters could not be decoded",) if bad else ()


def _decoded(part: Any) -> str:
    try:
        return str(part.get_content())
    except LookupError:  # a character set that does not exist
        return (part.get_payload(decode=True) or b"").decode("utf-8", "replace")
