"""The records that pass inside the service: what is asked of an input, the input, its result."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from opengte.errors import OpenGTEError
from opengte.serve.inference.scheduler import Item
from opengte.serve.types import Input
from opengte.types import Floats, Ints, Output, PackedBatch, PromptMask, TruncationSide

# what one place of a request holds: a text, token ids, or a reranker's (query, document)
Source = Input | tuple[str, str]

KEY_BYTES = 20


@dataclass(frozen=True, eq=False)
class Spec:
    """What is asked of every input of a request.

    salt is a hash of all that determines a row besides the input itself; without outputs the
    input is a reranker's pair.
    """

    outputs: frozenset[Output]
    size: int
    salt: bytes
    normalize: bool = True
    side: TruncationSide = "right"
    prefix: str = ""
    mask: PromptMask = "none"
    instruction: str | None = None
    max_document_tokens: int | None = None
    missing_instruction: bool = False
    cached: bool = True

    def key(self, source: Source) -> bytes:
        """Return a hash that tells apart any two inputs with different rows."""
        digest = hashlib.blake2b(key=self.salt, digest_size=KEY_BYTES)
        if isinstance(source, str):
            digest.update(b"t" + source.encode("utf-8", "surrogatepass"))
        elif is_pair(source):
            query, document = (str(text).encode("utf-8", "surrogatepass") for text in source)
            digest.update(b"p%d:" % len(query) + query + document)
        else:
            digest.update(b"i" + np.asarray(source, dtype=np.int64).tobytes())
        return digest.digest()


def salt(*parts: object) -> bytes:
    """Return a hash of values whose repr tells them apart."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=32).digest()


def is_pair(source: Source) -> bool:
    """Return whether an input is a (query, document) pair of texts."""
    return not isinstance(source, str) and len(source) == 2 and isinstance(source[0], str)


class Row(NamedTuple):
    """The result of one input; found and kept count its tokens before and after truncation."""

    found: int
    kept: int
    dense: Floats | None = None
    sparse: dict[int, float] | None = None
    tokens: Floats | None = None
    states: Floats | None = None
    score: float | None = None

    @property
    def nbytes(self) -> int:
        """About how much memory the row takes."""
        arrays = (self.dense, self.tokens, self.states)
        total = sum(array.nbytes + 128 for array in arrays if array is not None)
        return 200 + total + (0 if self.sparse is None else 100 * len(self.sparse))


@dataclass(frozen=True)
class Sequences:
    """Tokenised inputs; found holds the tokens of each before truncation."""

    batch: PackedBatch
    found: list[int]
    repaired: frozenset[int] = frozenset()


_none = np.zeros(0, np.int32)


@dataclass(slots=True, eq=False)
class Flight(Item):
    """One distinct input on its way: everybody who waits for it is called when it is done."""

    spec: Spec = field(kw_only=True)
    source: Source = field(kw_only=True)
    key: bytes | None = None
    ids: Ints = field(default_factory=lambda: _none)
    type_ids: Ints = field(default_factory=lambda: _none)
    pool_from: int = 0
    found: int = 0
    waiters: list[tuple[Any, int]] = field(default_factory=list)  # (Job, place)
    done: bool = False
    suspect: bool = False  # an engine hung on its batch


@dataclass(slots=True)
class Failed:
    """Why a flight has no row; poison: it made the engine fail on its own."""

    error: OpenGTEError
    poison: bool = False


Result = Row | Failed


@dataclass(slots=True)
class Outcome:
    """What became of one batch."""

    flights: list[Flight]
    results: list[Result]
    tokens: int = 0
    seconds: float = 0.0
    faults: int = 0
    sick: str | None = None  # the engine fails on anything: why


Deliver = Callable[[Outcome], None]
