"""Request bodies: read under a limit, parsed, and every field accounted for."""

import functools
import json
import re
import typing
from typing import Any

import msgspec
from starlette.types import Receive

from opengte.errors import InputError
from opengte.serve.http.errors import TooLarge, Unreadable
from opengte.serve.protocols.base import Operation

Headers = dict[bytes, bytes]

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])

SHOWN = 20  # unknown fields named in an error


class ClientGone(Exception):
    """The client closed its connection."""


def content_length(headers: Headers) -> int | None:
    """Return what the client announced; None if it did not, or not as a number."""
    value = headers.get(b"content-length", b"")
    return int(value) if value.isdigit() else None


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """Return the body; TooLarge before reading it where its length is announced."""
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise Unreadable(
            f"content-encoding={encoding.decode('latin-1')!r} is not read; expected a body that is "
            "not compressed."
        )
    announced = content_length(headers)
    if announced is not None and announced > limit:
        raise TooLarge(_too_large(announced, limit))
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False):
        if len(body) > limit:
            raise TooLarge(_too_large(len(body), limit))
        return body
    chunks, size = [body], len(body)
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        if size > limit:
            raise TooLarge(_too_large(size, limit))
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])


def _too_large(found: int, limit: int) -> str:
    return (
        f"The body has at least {found} bytes; this server takes up to {limit} "
        "(--max-body-bytes). Send fewer texts at a time."
    )


def top_fields(body: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object, undecoded."""
    try:
        return _fields.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in _leniently(body)}


def _leniently(body: bytes) -> list[tuple[str, Any]]:
    """Return the fields of an object with lone surrogates; the first error again otherwise.

    Python's and JavaScript's clients write them as escapes; msgspec refuses them, and the tokenizer
    replaces them.
    """
    if b"\\u" not in body:
        _fields.decode(body)
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except ValueError as failure:
        raise msgspec.DecodeError(str(failure)) from None
    if not isinstance(value, dict):
        raise msgspec.ValidationError("Expected `object`")
    return list(value.items())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


@functools.lru_cache(maxsize=256)
def _decoder(body: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(body)


@functools.lru_cache(maxsize=256)
def _known(body: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(body))


def decode(operation: Operation, body: bytes) -> Any:
    """Return the decoded and checked body of an operation."""
    assert operation.body is not None
    try:
        try:
            return _decoder(operation.body).decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return msgspec.convert(dict(_leniently(body)), operation.body)
        except UnicodeDecodeError as failure:
            raise msgspec.DecodeError(str(failure)) from None
    except msgspec.ValidationError as error:
        raise _explained(error, operation.body) from None


_ENUM = re.compile(r"(Invalid (?:enum )?value .*) - at `\$\.(\w+)(.*)`$", re.DOTALL)


def _explained(
    error: msgspec.ValidationError, body: type[msgspec.Struct]
) -> msgspec.ValidationError:
    """Return the error with the words that would have been taken, where there are few."""
    found = _ENUM.match(str(error))
    if found is None:
        return error
    allowed = _words(typing.get_type_hints(body)[found[2]])
    if not allowed:
        return error
    return msgspec.ValidationError(
        f"{found[1]}; expected {', '.join(map(str, allowed))} - at `$.{found[2]}{found[3]}`"
    )


def _words(kind: Any) -> list[Any]:
    """Return the literals that a type is made of."""
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    return [word for part in typing.get_args(kind) for word in _words(part)]


def unused(operation: Operation, fields: dict[str, Any], strict: bool) -> tuple[str, ...]:
    """Return the fields of a request that change nothing.

    InputError on those that would have to change the result and cannot, and, in strict mode, on
    those that are not documented.
    """
    assert operation.body is not None
    known = _known(operation.body)
    for name, advice in operation.refused.items():
        if name in fields:
            raise InputError(f"{name} is not supported here, and would change the result. {advice}")
    unknown = sorted(set(fields) - known)
    if unknown and strict:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise InputError(
            f"{', '.join(map(repr, unknown[:SHOWN]))}{more} is not a field of {operation.id}; "
            f"expected among {', '.join(sorted(known))}. Leave it out."
        )
    return tuple(unknown + [name for name in sorted(operation.inert) if name in fields])
