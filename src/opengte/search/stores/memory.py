"""A store in memory, in plain loops: the reference for tests of the others, and for dry runs."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from opengte.search.filters import Filter, matches
from opengte.search.segmentation import with_terms
from opengte.search.stores.base import (
    DocumentHashes,
    ScoredIds,
    SourceFile,
    SparseVector,
    StoredDocument,
    StoreHealth,
)
from opengte.types import Floats

WORDS = re.compile(r"\w+")
K1, B = 1.2, 0.75


class MemoryStore:
    """Keeps documents as long as the process lives."""

    name = "memory"

    def __init__(self) -> None:
        self._settings: dict[str, Any] | None = None
        self._documents: dict[str, StoredDocument] = {}
        self._sources: dict[str, SourceFile] = {}

    def settings(self) -> dict[str, Any] | None:
        """Return what `save_settings` kept."""
        return self._settings

    def save_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep what the knowledge base must know of itself."""
        self._settings = dict(settings)

    def put(self, documents: Sequence[StoredDocument]) -> None:
        """Write documents in place of those with the same ids."""
        self._documents |= {one.id: one for one in documents if one.windows}

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents."""
        for name in ids:
            self._documents.pop(name, None)

    def known(self, ids: Sequence[str]) -> dict[str, DocumentHashes]:
        """Return the hashes of those documents that are there."""
        return {name: DocumentHashes(one.content, one.row) for name, one in self.fetch(ids).items()}

    def entries(self) -> Iterator[tuple[str, DocumentHashes]]:
        """Yield the id and the hashes of every document."""
        yield from (
            (name, DocumentHashes(one.content, one.row)) for name, one in self._documents.items()
        )

    def with_content(self, hashes: Sequence[str]) -> dict[str, StoredDocument]:
        """Return, for each content hash that is there, one document that has it."""
        wanted = set(hashes)
        return {one.content: one for one in self._documents.values() if one.content in wanted}

    def fetch(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Return those documents that are there, whole."""
        return {name: self._documents[name] for name in ids if name in self._documents}

    def documents_of(self, sources: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of the documents of files."""
        found: dict[str, list[str]] = {source: [] for source in sources}
        for one in self._documents.values():
            if one.source in found:
                found[one.source].append(one.id)
        return found

    def sources(self) -> Iterator[SourceFile]:
        """Yield every file that was looked at."""
        yield from list(self._sources.values())

    def put_sources(self, sources: Sequence[SourceFile]) -> None:
        """Write what became of files."""
        self._sources |= {one.id: one for one in sources}

    def delete_sources(self, ids: Sequence[str]) -> None:
        """Forget files."""
        for name in ids:
            self._sources.pop(name, None)

    def dense(
        self,
        query: Floats,
        k: int,
        where: Filter | None,
        *,
        exact: bool = False,
    ) -> ScoredIds:
        """Return the k documents closest to a vector (d,); always exact."""
        scores = {
            name: max(float(np.dot(window.vector, query)) for window in one.windows)
            for name, one in self._fitting(where)
        }
        return _top(scores, k)

    def lexical(self, query: str, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by BM25, of words as they are."""
        texts = {name: split_words(f"{one.title} {one.text}") for name, one in self._fitting(None)}
        mean = sum(map(len, texts.values())) / max(1, len(texts))
        counts = {name: Counter(text) for name, text in texts.items()}
        scores: dict[str, float] = {}
        for name, _ in self._fitting(where):
            total = 0.0
            for word in split_words(query):
                holding = sum(word in other for other in counts.values())
                weight = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
                often = counts[name][word]
                size = 1 - B + B * len(texts[name]) / max(1.0, mean)
                total += weight * often * (K1 + 1) / (often + K1 * size)
            if total > 0:
                scores[name] = total
        return _top(scores, k)

    def sparse(self, query: SparseVector, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by learned sparse weights."""
        scores = {}
        for name, one in self._fitting(where):
            of = [sum(w * query.get(t, 0.0) for t, w in x.sparse.items()) for x in one.windows]
            if max(of) > 0:
                scores[name] = max(of)
        return _top(scores, k)

    def count(self, where: Filter | None = None) -> int:
        """Return how many documents fit."""
        return sum(1 for _ in self._fitting(where))

    def scan(self) -> Iterator[StoredDocument]:
        """Yield every document, by id."""
        yield from (self._documents[name] for name in sorted(self._documents))

    def sample(self, count: int) -> list[StoredDocument]:
        """Return so many documents from all over the store."""
        names = sorted(self._documents)
        return [self._documents[name] for name in names[:: max(1, len(names) // max(1, count))]]

    def optimize(self) -> list[str]:
        """Do nothing: there are no indexes."""
        return []

    def health(self) -> StoreHealth:
        """Return the state of the store."""
        windows = sum(len(one.windows) for one in self._documents.values())
        return StoreHealth(len(self._documents), windows, None, 1, {}, {})

    def _fitting(self, where: Filter | None) -> Iterator[tuple[str, StoredDocument]]:
        return ((n, one) for n, one in self._documents.items() if matches(where, one.metadata))


def split_words(text: str) -> list[str]:
    """Return the words of a text, in lower case, and its further terms."""
    return WORDS.findall(with_terms(text).lower())


def _top(scores: Mapping[str, float], k: int) -> ScoredIds:
    return sorted(scores.items(), key=lambda one: (-one[1], one[0]))[:k]
