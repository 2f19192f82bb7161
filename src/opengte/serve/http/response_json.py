"""Answers to JSON, in pieces when there are many numbers, so that nobody else waits for long."""

import asyncio
from typing import Any

import orjson

from opengte.serve.protocols.encodings import Rows

OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS

SMALL = 8192  # numbers that are written at once
PIECE = 1 << 16  # bytes written between two turns of the event loop: less than 0.5 ms


def dumps(content: Any) -> bytes:
    """Return JSON at once."""
    return orjson.dumps(content, default=_plain, option=OPTIONS)


def _plain(value: Any) -> Any:
    if isinstance(value, Rows):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not written as JSON")


async def encode(content: Any, numbers: int) -> bytes:
    """Return JSON; numbers says about how many there are to write."""
    return dumps(content if numbers <= SMALL else await _written(content))


async def _written(content: Any) -> Any:
    """Return content with its rows written already."""
    if isinstance(content, Rows):
        return await _rows(content)
    if isinstance(content, dict):
        return {name: await _written(value) for name, value in content.items()}
    return content


async def _rows(rows: Rows) -> orjson.Fragment:
    """Return an array written item by item, with turns for others in between."""
    parts: list[bytes] = []
    size = 0
    for item in rows:
        parts.append(dumps(item))
        size += len(parts[-1])
        if size > PIECE:
            size = 0
            await asyncio.sleep(0)
    return orjson.Fragment(b"[" + b",".join(parts) + b"]")
