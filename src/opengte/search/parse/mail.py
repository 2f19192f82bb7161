"""E-mail: .eml messages and mailboxes; the headers that people search by are metadata."""

import contextlib
import mailbox
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from typing import Any

from opengte.search.parse import html
from opengte.search.parse.base import ParsedDocument, ParsedItem, ParseProblem, scalar_fields

HEADERS = {"From": "from", "To": "to", "Cc": "cc", "List-Id": "list"}


def parse_eml(content: bytes) -> Iterator[ParsedItem]:
    """Yield the text of one message; attachments are named, not read."""
    parsed = message_from_bytes(content, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    yield _document(parsed, "", None)


def parse_mbox(path: str, row_bytes: int) -> Iterator[ParsedItem]:
    """Yield every message of a mailbox."""
    with contextlib.closing(mailbox.mbox(path, create=False)) as box:
        yield from _messages(box, row_bytes)


def _messages(box: mailbox.mbox, row_bytes: int) -> Iterator[ParsedItem]:
    for number, key in enumerate(box.keys(), 1):
        try:
            with contextlib.closing(box.get_file(key)) as file:
                content = file.read(row_bytes + 1)
            if len(content) > row_bytes:
                yield ParseProblem(f"message {number} is larger than {row_bytes:,} bytes")
                continue
            parsed = message_from_bytes(content, policy=policy.default)
            assert isinstance(parsed, EmailMessage)
            name = str(parsed.get("Message-ID", "")).strip() or str(number)
            yield _document(parsed, name, None)
        except Exception as error:  # one broken message is not the mailbox
            yield ParseProblem(f"message {number} cannot be read ({type(error).__name__}: {error})")


def _document(parsed: EmailMessage, row: str, line: int | None) -> ParsedDocument:
    headers = {ours: _header(parsed, theirs) for theirs, ours in HEADERS.items()}
    attached = [part.get_filename() or part.get_content_type() for part in _attachments(parsed)]
    metadata = {**headers, "date": _date(parsed), "attachments": ", ".join(attached)[:1000]}
    body, warnings = _body(parsed)
    if attached:
        warnings += (f"{len(attached)} attachments were not read",)
    subject = _header(parsed, "Subject")
    return ParsedDocument(
        body,
        row=row,
        title=subject[:200],
        line=line,
        metadata=scalar_fields({name: value for name, value in metadata.items() if value}),
        warnings=warnings,
    )


def _attachments(parsed: EmailMessage) -> Iterator[Any]:
    try:
        yield from parsed.iter_attachments()
    except (AttributeError, KeyError, TypeError):  # a message that says it has parts and has none
        return


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
