"""Texts and vectors on disk, for collections too large for memory."""

import json
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opengte.errors import InputError
from opengte.types import Floats

BLOCK = 1024  # texts that are embedded at once


class TextStore(Sequence[str]):
    """Texts by number, in a file."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w+b")
        self.ends = array("q", [0])

    def append(self, text: str) -> None:
        """Append a text."""
        if self.file.tell() != self.ends[-1]:
            self.file.seek(self.ends[-1])
        self.ends.append(self.ends[-1] + self.file.write(text.encode("utf-8", "surrogatepass")))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, end = self.ends[index], self.ends[index + 1]
        self.file.seek(start)
        return self.file.read(end - start).decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def embed_to_disk(
    texts: Sequence[str],
    embed: Callable[[Sequence[str]], Floats],
    path: Path,
    identity: dict[str, Any],
    advance: Callable[[int], None] = lambda texts: None,
) -> Floats:
    """Return the vectors (n, d) float32 of texts, memory-mapped; an unfinished file is resumed.

    identity identifies texts and model; a file with another identity is replaced.
    """
    if not len(texts):
        raise InputError("there are no texts to embed; expected at least one")
    about = path.with_suffix(".json")
    width = _width(about, identity)
    done = 0
    if width is not None and path.exists():
        done = min(path.stat().st_size // (4 * width), len(texts))
        os.truncate(path, done * 4 * width)
    else:
        path.write_bytes(b"")
    advance(done)
    with path.open("ab") as file:
        for start in range(done, len(texts), BLOCK):
            block = np.asarray(embed(texts[start : start + BLOCK]), dtype="<f4")
            if width is None:
                width = block.shape[1]
                about.write_text(json.dumps({**identity, "width": width}), encoding="utf-8")
            file.write(np.ascontiguousarray(block).tobytes())
            file.flush()
            advance(len(block))
    assert width is not None
    return np.memmap(path, "<f4", "r", shape=(len(texts), width))


def row_blocks(array: Floats, size: int) -> Iterator[Floats]:
    """Yield consecutive blocks of rows of an array."""
    for start in range(0, len(array), size):
        yield array[start : start + size]


def _width(about: Path, identity: dict[str, Any]) -> int | None:
    """Return the width of the vectors of an earlier run with the same identity, else None."""
    try:
        recorded = json.loads(about.read_text(encoding="utf-8"))
        width = int(recorded.pop("width"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return width if recorded == json.loads(json.dumps(identity)) and width > 0 else None
