"""Vectors of the documents of a pool, computed anew, each text once.

Letters in shapes: w windows of all documents, d width.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from opengte.review.pipeline import VectorPlan
from opengte.search.ingest.embedder import Embedder
from opengte.search.parse.base import Section
from opengte.search.stores.base import StoredDocument, StoredWindow
from opengte.types import Embeddings, Floats, Truncated

if TYPE_CHECKING:
    from opengte.encoder import Encoder

EXCHANGED = {"query": "document", "document": "query"}
Cached = tuple[Floats, int, int]  # vector, tokens read, tokens of the whole text (0: not cut)
Texts = tuple[str, str, Sequence[Section]]  # title, text, sections


class VectorMemo(dict[bytes, Cached]):
    """Vectors by model and text, shared by all arms; and how fast they were computed."""

    tokens = 0
    seconds = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Return the rate measured here, None before anything was computed."""
        return self.tokens / self.seconds if self.seconds else None


@dataclass
class PlannedEncoder:
    """An encoder with the prompts of a plan, which computes each text once."""

    encoder: "Encoder"
    plan: VectorPlan
    cache: VectorMemo
    card: Any = field(init=False)
    tokenizer: Any = field(init=False)

    def __post_init__(self) -> None:
        """Take the card, with the prompts as the plan has them."""
        card, prompts = self.encoder.card, dict(self.encoder.card.prompts)
        if self.plan.prompts == "exchanged":
            prompts = {EXCHANGED.get(role, role): text for role, text in prompts.items()}
        elif self.plan.prompts == "none":
            prompts = {}
        self.card = replace(card, prompts=prompts, outputs=("dense",))
        self.tokenizer = self.encoder.tokenizer

    def embed(
        self, texts: Sequence[str], *, role: Any = None, instruction: str | None = None, **_: Any
    ) -> Embeddings:
        """Return dense vectors of texts."""
        if self.plan.prompts == "exchanged":
            role = EXCHANGED.get(role, role)
        elif self.plan.prompts == "none":
            role = None
        head = f"{self.card.fingerprint}\0{self.card.precision}\0{self.card.max_length}\0"
        head += f"{role}\0{instruction}\0"
        keys = [_key(head, text) for text in texts]
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.cache}
        if fresh:
            self._compute(list(fresh), list(fresh.values()), role, instruction)
        rows = [self.cache[key] for key in keys]
        cut = tuple(
            Truncated(place, whole, read) for place, (_, read, whole) in enumerate(rows) if whole
        )
        return Embeddings(
            dense=np.array([vector for vector, _, _ in rows], np.float32).reshape(len(rows), -1),
            sparse=None,
            tokens=None,
            states=None,
            token_counts=np.array([read for _, read, _ in rows], np.int32),
            truncated=cut,
            repaired=(),
        )

    def _compute(
        self, keys: Sequence[bytes], texts: list[str], role: Any, instruction: str | None
    ) -> None:
        start = time.perf_counter()
        found = self.encoder.embed(texts, role=role, instruction=instruction, progress=False)
        self.cache.seconds += time.perf_counter() - start
        self.cache.tokens += int(found.token_counts.sum())
        cut = {one.index: one.found for one in found.truncated}
        assert found.dense is not None
        for place, key in enumerate(keys):
            row = found.dense[place].astype(np.float32)
            self.cache[key] = row, int(found.token_counts[place]), cut.get(place, 0)


def _key(head: str, text: str) -> bytes:
    return blake2b((head + text).encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True, eq=False)
class WindowMatrix:
    """The vectors (w, d) of all windows, those of a document together; first (n,) of each one."""

    vectors: Floats
    first: npt.NDArray[np.int64]

    def scores(self, query: Floats) -> Floats:
        """Return the score (n,) of each document: that of its best window."""
        width = min(len(query), self.vectors.shape[1])
        found: Floats = np.maximum.reduceat(self.vectors[:, :width] @ query[:width], self.first)
        return found


def matrix_of(windows: Sequence[Sequence[StoredWindow]]) -> WindowMatrix:
    """Return the matrix of documents given by their windows, at least one each."""
    sizes = np.array([len(one) for one in windows], np.int64)
    rows = np.array([window.vector for one in windows for window in one], np.float32)
    return WindowMatrix(rows, np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64))


def embed_documents(
    encoder: PlannedEncoder, documents: Sequence[Texts], span_tokens: int, window: int | None
) -> list[tuple[StoredWindow, ...]]:
    """Return the windows of documents, with vectors and without passages."""
    asked = encoder.plan.window_tokens
    room = window if asked is None else asked or None
    made = Embedder(encoder, "none", span_tokens, room)  # type: ignore[arg-type]
    parts = [(title if encoder.plan.title else "", text, heads) for title, text, heads in documents]
    return [one.windows for one in made.embed(parts)]


def texts_of(document: StoredDocument) -> Texts:
    """Return what of a document is embedded."""
    return document.title, document.text, document.sections
