"""Answers to JSON; large ones in steps, so that the event loop serves others in between."""

import asyncio
from typing import Any

import orjson

from opengte.serve.protocols.encodings import LazyArray

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_SMALL = 8192  # numbers that are encoded at once
STEP_BYTES = 1 << 16  # encoded between two turns of the event loop: less than 0.5 ms


def dumps(content: Any) -> bytes:
    """Return JSON at once."""
    return orjson.dumps(content, default=_to_list, option=_OPTIONS)


def _to_list(value: Any) -> Any:
    if isinstance(value, LazyArray):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not written as JSON")


async def encode_json(content: Any, numbers: int) -> bytes:
    """Return JSON; numbers is about how many numbers it has."""
    return dumps(content if numbers <= _SMALL else await _with_encoded_arrays(content))


async def _with_encoded_arrays(content: Any) -> Any:
    """Return content with its arrays encoded."""
    if isinstance(content, LazyArray):
        return await _encode_array(content)
    if isinstance(content, dict):
        return {name: await _with_encoded_arrays(value) for name, value in content.items()}
    return content


async def _encode_array(array: LazyArray) -> orjson.Fragment:
    """Return an array encoded item by item, with turns of the event loop in between."""
    parts: list[bytes] = []
    size = 0
    for item in array:
        parts.append(dumps(item))
        size += len(parts[-1])
        if size > STEP_BYTES:
            size = 0
            await asyncio.sleep(0)
    return orjson.Fragment(b"[" + b",".join(parts) + b"]")
