"""Records of the inference service: an input, what is requested for it, and its result."""

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from opengte.errors import OpenGTEError
from opengte.serve.types import Input, Priority
from opengte.types import Floats, Ints, Output, PackedBatch, PromptMask, Role, TruncationSide

# one input of a request: a text, token ids, or a reranker's (query, document)
ModelInput = Input | tuple[str, str]

KEY_BYTES = 20


@dataclass(frozen=True, eq=False)
class RequestOptions:
    """What a request wants for each of its inputs.

    `salt` is a hash of everything besides the input itself that determines the result. Without
    `outputs` the inputs are a reranker's pairs. If `strict`, an input that was truncated fails.
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
    strict: bool = False
    role: Role | None = None  # of late interaction, which reads queries and documents differently

    def key(self, content: ModelInput) -> bytes:
        """Return a hash that differs for any two inputs with different results."""
        digest = hashlib.blake2b(key=self.salt, digest_size=KEY_BYTES)
        if isinstance(content, str):
            digest.update(b"t" + content.encode("utf-8", "surrogatepass"))
        elif is_pair(content):
            query, document = (str(text).encode("utf-8", "surrogatepass") for text in content)
            digest.update(b"p%d:" % len(query) + query + document)
        else:
            digest.update(b"i" + np.asarray(content, dtype=np.int64).tobytes())
        return digest.digest()


def salt(*parts: object) -> bytes:
    """Return a hash of values that differ in their repr."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=32).digest()


def is_pair(content: ModelInput) -> bool:
    """Return whether an input is a (query, document) pair of texts."""
    return not isinstance(content, str) and len(content) == 2 and isinstance(content[0], str)


class InputResult(NamedTuple):
    """The result of one input; the lengths are its tokens before and after truncation.

    With at_least, original_length is a lower bound: the text was not read to its end.
    """

    original_length: int
    length: int
    dense: Floats | None = None
    sparse: dict[int, float] | None = None
    tokens: Floats | None = None
    states: Floats | None = None
    score: float | None = None
    at_least: bool = False

    @property
    def nbytes(self) -> int:
        """The approximate memory of the result in bytes."""
        arrays = (self.dense, self.tokens, self.states)
        total = sum(array.nbytes + 128 for array in arrays if array is not None)
        return 200 + total + (0 if self.sparse is None else 100 * len(self.sparse))


@dataclass(frozen=True)
class TokenizedInputs:
    """Tokenized inputs; `original_lengths` are their tokens before truncation.

    partial: the indices of inputs whose original length is a lower bound.
    """

    batch: PackedBatch
    original_lengths: list[int]
    repaired: frozenset[int] = frozenset()
    partial: frozenset[int] = frozenset()


_no_tokens = np.zeros(0, np.int32)


@dataclass(slots=True, eq=False)
class QueuedItem:
    """One sequence for the scheduler: its tokens, and its kind (a batch has a single kind).

    `arrived` orders the queue; it can differ from the time of arrival. The queue sets `place` while
    the item waits.
    """

    tokens: int
    kind: Hashable
    priority: Priority = "interactive"
    deadline: float | None = None
    arrived: float = 0.0
    place: int | None = None


@dataclass(slots=True, eq=False)
class PendingInput(QueuedItem):
    """One distinct input in flight; every request that waits for it gets its result."""

    options: RequestOptions = field(kw_only=True)
    content: ModelInput = field(kw_only=True)
    key: bytes | None = None
    ids: Ints = field(default_factory=lambda: _no_tokens)
    type_ids: Ints = field(default_factory=lambda: _no_tokens)
    pool_from: int = 0
    attended: int = 0  # leading tokens that are attended to; 0: all of them
    original_length: int = 0
    at_least: bool = False  # original_length is a lower bound
    waiters: list[tuple[Any, int]] = field(default_factory=list)  # (PendingRequest, index)
    done: bool = False
    suspect: bool = False  # the engine hung on a batch that contained it


@dataclass(slots=True)
class FailedInput:
    """Why an input has no result; `quarantine` if the engine failed on it alone."""

    error: OpenGTEError
    quarantine: bool = False


InputOutcome = InputResult | FailedInput


@dataclass(slots=True)
class BatchOutcome:
    """The outcome of one batch; without `outcomes`, the inputs' deadlines had passed.

    `engine_failure` is the reason if the engine fails on every input, known good ones included.
    """

    inputs: list[PendingInput]
    outcomes: list[InputOutcome]
    tokens: int = 0
    seconds: float = 0.0
    faults: int = 0
    engine_failure: str | None = None


Deliver = Callable[[BatchOutcome], None]
