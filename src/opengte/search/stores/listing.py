"""What there is in a store, without the texts: for facets, maps, and telling who may see what.

A store may have faster ways (`Outlining`); any other is read as a whole.
"""

import heapq
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from opengte.embedding_ops import l2_normalise
from opengte.search.filters import Filter, matches
from opengte.search.parse.base import Scalar
from opengte.search.stores.base import Store, StoredDocument
from opengte.types import Floats

HEAD_CHARACTERS = 1_500  # characters of a text that a portrait has


@dataclass(frozen=True)
class DocumentHeader:
    """A document, without its text."""

    id: str
    title: str
    metadata: Mapping[str, Scalar]


@dataclass(frozen=True, eq=False)
class DocumentSummary:
    """A document's mean vector (d,) of unit length, and the beginning of its text."""

    id: str
    vector: Floats
    head: str
    metadata: Mapping[str, Scalar]


@runtime_checkable
class ListingStore(Protocol):
    """A store that reads these without reading everything."""

    def outline(
        self, where: Filter | None = None, ids: Sequence[str] | None = None
    ) -> Iterator[DocumentHeader]:
        """Yield the documents that fit, in any order; of these ids only where there are some."""
        ...

    def portraits(self, ids: Sequence[str]) -> Iterator[DocumentSummary]:
        """Yield the portraits of those documents that are there, in any order."""
        ...

    def revision(self) -> object:
        """Return a value that changes with every commit."""
        ...


@runtime_checkable
class PartialFetchStore(Protocol):
    """A store that reads less for an answer than all of a document."""

    def shown(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Return those documents that the last search found, without what only indexing needs.

        That is: learned weights, tokens, hashes, warnings, when it was indexed.
        """
        ...


def fetch_for_display(store: Store, ids: Sequence[str]) -> dict[str, StoredDocument]:
    """Return those documents that are there, as much of them as an answer shows."""
    return store.shown(ids) if isinstance(store, PartialFetchStore) else store.fetch(ids)


def list_documents(
    store: Store, where: Filter | None = None, ids: Sequence[str] | None = None
) -> Iterator[DocumentHeader]:
    """Yield every document that fits; of these ids only where there are some."""
    if isinstance(store, ListingStore):
        yield from store.outline(where, ids)
        return
    found: Iterable[StoredDocument] = store.scan() if ids is None else store.fetch(ids).values()
    for one in found:
        if matches(where, one.metadata):
            yield DocumentHeader(one.id, one.title, one.metadata)


def summarize_documents(store: Store, ids: Sequence[str]) -> Iterator[DocumentSummary]:
    """Yield the portraits of those documents that are there, in any order."""
    if isinstance(store, ListingStore):
        yield from store.portraits(ids)
        return
    for start in range(0, len(ids), 64):
        for one in store.fetch(ids[start : start + 64]).values():
            vectors = np.array([window.vector for window in one.windows], dtype=np.float32)
            yield DocumentSummary(
                one.id, mean_direction(vectors), one.text[:HEAD_CHARACTERS], one.metadata
            )


def store_revision(store: Store) -> object:
    """Return a value that changes with every commit; None from a store that does not know."""
    return store.revision() if isinstance(store, ListingStore) else None


def mean_direction(vectors: Floats) -> Floats:
    """Return the mean (d,) of the vectors (n, d) of a document's windows, of length one."""
    mean: Floats = l2_normalise(vectors.mean(axis=0))
    return mean


def sample_by_id(found: Iterable[DocumentHeader], most: int) -> tuple[list[DocumentHeader], int]:
    """Return at most so many documents, by their ids alone, in their order, and how many came.

    Which ones are taken depends on no other document, so that a sample tells nothing of those that
    are left out, and hardly changes when a few documents come.
    """
    held: list[tuple[int, str, DocumentHeader]] = []
    count = 0
    for one in found:
        count += 1
        entry = (-zlib.crc32(one.id.encode("utf-8", "surrogatepass")), one.id, one)
        if len(held) < most:
            heapq.heappush(held, entry)
        elif entry[:2] > held[0][:2]:
            heapq.heapreplace(held, entry)
    return sorted((one for _, _, one in held), key=lambda one: one.id), count
