"""An encoder for evaluations: each text is encoded once, and the work is counted and timed."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from typing import Protocol

import numpy as np

from opengte.types import Embeddings, Floats, ModelCard, Output, Role, TruncationSide

CACHE_BYTES = 256 * 2**20


class SupportsEmbed(Protocol):
    """The part of `Encoder` that an evaluation needs."""

    card: ModelCard

    def embed(
        self,
        texts: Sequence[str],
        *,
        role: Role | None = None,
        instruction: str | None = None,
        outputs: Sequence[Output] = ("dense",),
        dimensions: int | None = None,
        truncation: TruncationSide = "right",
        progress: bool | None = None,
    ) -> Embeddings:
        """Embed texts, as `Encoder.embed` does."""
        ...


@dataclass
class EncodingStats:
    """How much was encoded, and how long it took."""

    texts: int = 0  # requested
    encoded: int = 0  # of these, computed; the rest came from the cache
    tokens: int = 0  # computed, special tokens included
    truncated: int = 0  # texts computed that lost tokens
    seconds: float = 0.0  # spent encoding

    def __sub__(self, other: "EncodingStats") -> "EncodingStats":
        """Return what was done since an earlier snapshot."""
        return EncodingStats(
            *(getattr(self, f.name) - getattr(other, f.name) for f in fields(self))
        )

    def copy(self) -> "EncodingStats":
        """Return a snapshot."""
        return EncodingStats(**asdict(self))

    @property
    def tokens_per_second(self) -> float:
        """Return the throughput, 0 if nothing was encoded."""
        return self.tokens / self.seconds if self.seconds else 0.0


class VectorCache:
    """A first-in, first-out cache of at most `limit` bytes: tasks share many of their texts."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit, self._held = limit, 0
        self._vectors: OrderedDict[bytes, Floats] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of cached vectors."""
        return len(self._vectors)

    def get(self, key: bytes) -> Floats | None:
        """Return the vector of a text, or None."""
        return self._vectors.get(key)

    def put(self, key: bytes, vector: Floats) -> None:
        """Add a vector, and evict the oldest ones beyond the limit."""
        self._vectors[key] = vector
        self._held += vector.nbytes
        while self._held > self._limit:
            self._held -= self._vectors.popitem(last=False)[1].nbytes


class CachedEncoder:
    """An encoder with fixed settings, a cache and statistics."""

    def __init__(
        self,
        encoder: SupportsEmbed,
        *,
        dimensions: int | None = None,
        truncation: TruncationSide = "right",
        cache: VectorCache | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self.encoder = encoder
        self.dimensions = dimensions
        self.truncation: TruncationSide = truncation
        self.stats = EncodingStats()
        self.advance = advance
        self._cache = VectorCache() if cache is None else cache

    def encode(self, texts: Sequence[str], role: Role | None, instruction: str | None) -> Floats:
        """Return L2-normalised float32 vectors (n, d) of texts."""
        keys = [_key(role, instruction, text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if not self._is_cached(key)}
        fresh = self._embed(list(new.values()), role, instruction)
        rows = dict(zip(new, fresh, strict=True))
        vectors = np.empty((len(texts), self.width), np.float32)
        for place, key in enumerate(keys):
            row = rows.get(key)
            vectors[place] = self._cache.get(key) if row is None else row
        for key, row in rows.items():
            self._cache.put(key, row.copy())
        self.stats.texts += len(texts)
        self._report(len(texts) - len(new))
        return vectors

    @property
    def width(self) -> int:
        """Return the dimensions of a vector."""
        return self.dimensions or self.encoder.card.dimension

    def _is_cached(self, key: bytes) -> bool:
        return self._cache.get(key) is not None

    def _embed(self, texts: list[str], role: Role | None, instruction: str | None) -> Floats:
        """Encode a window of texts at a time, so that a bar moves."""
        parts = [np.empty((0, self.width), np.float32)]
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # batches alike
        for window in _windows(order):
            start = time.perf_counter()
            result = self.encoder.embed(
                [texts[place] for place in window],
                role=role,
                instruction=instruction,
                dimensions=self.dimensions,
                truncation=self.truncation,
                progress=False,
            )
            self.stats.seconds += time.perf_counter() - start
            self._count(result)
            assert result.dense is not None
            parts.append(result.dense)
        vectors = np.concatenate(parts)
        back = np.empty_like(vectors)
        back[order] = vectors
        return back

    def _count(self, result: Embeddings) -> None:
        self.stats.encoded += len(result)
        self.stats.tokens += int(result.token_counts.sum())
        self.stats.truncated += len(result.truncated)
        self._report(len(result))

    def _report(self, texts: int) -> None:
        if self.advance is not None and texts:
            self.advance(texts)


def _windows(order: list[int], size: int = 512) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _key(role: str | None, instruction: str | None, text: str) -> bytes:
    whole = f"{role}\0{instruction}\0{text}".encode("utf-8", "surrogatepass")
    return blake2b(whole, digest_size=16).digest()
