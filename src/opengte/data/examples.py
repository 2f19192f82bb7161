"""One row of training data, its origin, and hashes that recognise equal texts."""

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

SourceKind = Literal["pairs", "scored", "labelled", "texts"]
Hashes = npt.NDArray[np.int64]  # (n, 2): 128 bits a text, signed because PyTorch has no others


@dataclass(frozen=True, slots=True)
class Origin:
    """A place in the input: the file, and its line or row, counted from 1."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}:{self.row}"


@dataclass(frozen=True, slots=True)
class Example:
    """A query with its positives and negatives; a raw text is a query alone.

    scores has one number for each positive, then for each negative: the gold score of a scored
    pair, or a teacher's scores. A labelled text is its own positive; another text of the same label
    is drawn when batches are made.
    """

    origin: Origin
    query: str
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    scores: tuple[float, ...] | None = None
    label: str | None = None

    @property
    def documents(self) -> tuple[str, ...]:
        """Return the positives, then the negatives."""
        return self.positives + self.negatives


@dataclass(frozen=True, slots=True)
class UnusableRow:
    """A row that gives no example, and the reason."""

    origin: Origin
    reason: str


def normalised_text(text: str) -> str:
    r"""Return a text without differences of case, white space and Unicode compatibility forms.

    >>> normalised_text("  Hello\tWORLD ")
    'hello world'
    """
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(plain.casefold().split())


def text_hash(text: str) -> bytes:
    """Return a 128-bit hash (16 bytes) of a normalised text."""
    content = normalised_text(text).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()


def joint_hash(parts: Iterable[bytes]) -> bytes:
    """Return a 128-bit hash of several hashes, in their order."""
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


def hashes_to_array(hashes: Iterable[bytes]) -> Hashes:
    """Return hashes as an array (n, 2) int64."""
    return np.frombuffer(b"".join(hashes), dtype="<i8").reshape(-1, 2).astype(np.int64, copy=False)


def array_to_hashes(hashes: Hashes) -> list[bytes]:
    """Return the rows of (n, 2) int64 as hashes of 16 bytes."""
    content = np.ascontiguousarray(hashes, dtype="<i8").tobytes()
    return [content[start : start + 16] for start in range(0, len(content), 16)]
