"""Documents that are generated for benchmarks: words by Zipf's law, vectors around centres.

Every batch has a seed of its own, so that a build that was stopped goes on where it was.
"""

import numpy as np

from opengte.search.stores.base import SpanVectors, StoredDocument, StoredWindow

CENTRES = 1000
SPREAD = 0.7  # of vectors about their centre, in units of the centres' own
WORDS = 20_000
LENGTH = 60  # words of a document
ASKED = 6  # words of a question
BATCH = 5000

_shares = 1.0 / np.arange(1, WORDS + 1)
SHARES = _shares / _shares.sum()


class SyntheticDocuments:
    """Documents of so many dimensions, the same ones each time."""

    def __init__(self, width: int) -> None:
        self.width = width
        random = np.random.default_rng(0)
        self.centres = random.standard_normal((CENTRES, width), dtype=np.float32)

    def batch(self, number: int, count: int = BATCH) -> list[StoredDocument]:
        """Return a batch of documents with one window and one span each."""
        random = np.random.default_rng([1, number])
        pairs = zip(self._vectors(random, count), _texts(random, count, LENGTH), strict=True)
        first = number * BATCH
        return [
            document(first + n, vector, text, random.bytes(128))
            for n, (vector, text) in enumerate(pairs)
        ]

    def questions(self, count: int) -> list[tuple[str, np.ndarray]]:
        """Return texts and vectors of questions."""
        random = np.random.default_rng([2, 0])
        vectors = self._vectors(random, count)
        return list(zip(_texts(random, count, ASKED), vectors, strict=True))

    def _vectors(self, random: np.random.Generator, count: int) -> np.ndarray:
        noise = random.standard_normal((count, self.width), dtype=np.float32)
        found = self.centres[random.integers(CENTRES, size=count)] + SPREAD * noise
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def _texts(random: np.random.Generator, count: int, words: int) -> list[str]:
    numbers = random.choice(WORDS, (count, words), p=SHARES)
    return [" ".join(f"w{n}" for n in row) for row in numbers.tolist()]


def document(number: int, vector: np.ndarray, text: str, signature: bytes) -> StoredDocument:
    """Return a document of one window; its signature is like that of no other."""
    scale = float(np.abs(vector).max()) / 127
    spans = SpanVectors(
        np.array([[0, len(text)]], np.int32),
        np.rint(vector[None] / scale).astype(np.int8),
        np.array([scale], np.float32),
    )
    return StoredDocument(
        id=f"/d/{number}",
        source=f"/d/{number}",
        title=f"Document {number}",
        text=text,
        content=str(number),
        row="",
        signature=signature,
        windows=(StoredWindow(0, len(text), vector, spans, LENGTH),),
        metadata={"number": number, "group": number % 10},
    )
