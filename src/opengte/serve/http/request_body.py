"""Request bodies: read up to a size limit, decoded, and every unused field reported."""

import functools
import json
import re
import typing
from typing import Any

import msgspec
from starlette.types import Receive

from opengte.errors import InputError
from opengte.serve.http.errors import BodyTooLarge, UnsupportedMediaType
from opengte.serve.protocols.base import Operation

Headers = dict[bytes, bytes]

_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])

MAX_SHOWN = 20  # unknown fields named in an error


class ClientDisconnected(Exception):
    """The client closed its connection."""


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """Return the body.

    Raises BodyTooLarge, before reading if the client announced the length; UnsupportedMediaType for
    a compressed body; ClientDisconnected.
    """
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise UnsupportedMediaType(
            f"content-encoding={encoding.decode('latin-1')!r} is not read; expected a body that is "
            "not compressed."
        )
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLarge(_too_large(int(announced), limit))
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False):
        if len(body) > limit:
            raise BodyTooLarge(_too_large(len(body), limit))
        return body
    chunks, size = [body], len(body)
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        if size > limit:
            raise BodyTooLarge(_too_large(size, limit))
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])


def _too_large(size: int, limit: int) -> str:
    return (
        f"The body has at least {size} bytes; this server takes up to {limit} "
        "(--max-body-bytes). Send fewer texts at a time."
    )


def split_fields(body: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object without decoding their values."""
    try:
        return _object_decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        fields = _decode_leniently(body)
        return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in fields}


def given(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that have a value: clients send null for what their caller left out."""
    return {name: value for name, value in fields.items() if bytes(value) != b"null"}


def _decode_leniently(body: bytes) -> list[tuple[str, Any]]:
    """Return the fields of an object that may have lone surrogates; raise for any other error.

    Clients in Python and JavaScript write them as escapes; msgspec refuses them, and the tokenizer
    replaces them.
    """
    if b"\\u" not in body:
        _object_decoder.decode(body)  # raises the first error again
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from None
    if not isinstance(value, dict):
        raise msgspec.ValidationError("Expected `object`")
    return list(value.items())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


@functools.lru_cache(maxsize=256)
def _decoder(body: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(body)


@functools.lru_cache(maxsize=256)
def _field_names(body: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(body))


def decode_body(operation: Operation, body: bytes) -> Any:
    """Return the body of an operation as its type; msgspec's errors name the field at fault."""
    assert operation.body is not None
    try:
        try:
            return _decoder(operation.body).decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return msgspec.convert(dict(_decode_leniently(body)), operation.body)
        except UnicodeDecodeError as error:
            raise msgspec.DecodeError(str(error)) from None
    except msgspec.ValidationError as error:
        raise _with_allowed_values(error, operation.body) from None


_ENUM = re.compile(r"(Invalid (?:enum )?value .*) - at `\$\.(\w+)(.*)`$", re.DOTALL)


def _with_allowed_values(
    error: msgspec.ValidationError, body: type[msgspec.Struct]
) -> msgspec.ValidationError:
    """Return the error with the values that the field may have, if they are literals."""
    match = _ENUM.match(str(error))
    if match is None:
        return error
    allowed = _literals(typing.get_type_hints(body)[match[2]])
    if not allowed:
        return error
    return msgspec.ValidationError(
        f"{match[1]}; expected {', '.join(map(str, allowed))} - at `$.{match[2]}{match[3]}`"
    )


def _literals(annotation: Any) -> list[Any]:
    """Return the literals in a type."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for part in typing.get_args(annotation) for value in _literals(part)]


def ignored_fields(operation: Operation, fields: dict[str, Any], strict: bool) -> tuple[str, ...]:
    """Return the fields of a request that change nothing.

    Raises InputError for a field that would have to change the result and cannot, and, in strict
    mode, for one that is not documented.
    """
    assert operation.body is not None
    known = _field_names(operation.body)
    present = given(fields)
    for name, advice in operation.refused.items():
        if name in present:
            raise InputError(f"{name} is not supported here, and would change the result. {advice}")
    unknown = sorted(set(fields) - known)
    if unknown and strict:
        more = f" and {len(unknown) - MAX_SHOWN} more" if len(unknown) > MAX_SHOWN else ""
        raise InputError(
            f"{', '.join(map(repr, unknown[:MAX_SHOWN]))}{more} is not a field of {operation.id}; "
            f"expected among {', '.join(sorted(known))}. Leave it out."
        )
    return tuple(unknown + [name for name in sorted(operation.inert) if name in fields])
