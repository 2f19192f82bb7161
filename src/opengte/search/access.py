"""Row-level access control: a store in which only the documents that match a filter exist.

The filter is in the store, below everything that searches, counts, clusters or reads, so nothing
above can bypass it. A document that does not match is treated like one that does not exist.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from opengte.errors import AccessError
from opengte.search.filters import Filter, all_of, matches
from opengte.search.stores.base import (
    DocumentHashes,
    ScoredIds,
    SourceFile,
    SparseVector,
    Store,
    StoredDocument,
    StoreHealth,
)
from opengte.search.stores.listing import (
    DocumentHeader,
    DocumentSummary,
    list_documents,
    store_revision,
    summarize_documents,
)
from opengte.types import Floats


class LimitedStore:
    """The documents of another store that match a filter, read-only.

    BM25 scores depend on word frequencies in the whole store. A caller that must not reveal those
    does not show the scores (`reveals_word_statistics` is False).
    """

    reveals_word_statistics = False

    def __init__(self, store: Store, where: Filter) -> None:
        self.name = store.name
        self._store = store
        self.where = where

    # --- searching -------------------------------------------------------------------------------

    def dense(
        self,
        query: Floats,
        k: int,
        where: Filter | None,
        *,
        exact: bool = False,
    ) -> ScoredIds:
        """Return the k documents closest to a vector (d,)."""
        return self._store.dense(query, k, all_of(self.where, where), exact=exact)

    def lexical(self, query: str, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by BM25."""
        return self._store.lexical(query, k, all_of(self.where, where))

    def sparse(self, query: SparseVector, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by learned sparse weights."""
        return self._store.sparse(query, k, all_of(self.where, where))

    def count(self, where: Filter | None = None) -> int:
        """Return how many documents fit."""
        return self._store.count(all_of(self.where, where))

    # --- reading ---------------------------------------------------------------------------------

    def fetch(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Return those documents that are there, whole.

        Nothing is read of documents outside, so timing does not reveal whether they exist.
        """
        seen = [one.id for one in self.outline(ids=ids)]
        found = self._store.fetch(seen) if seen else {}
        return {name: one for name, one in found.items() if matches(self.where, one.metadata)}

    def known(self, ids: Sequence[str]) -> dict[str, DocumentHashes]:
        """Return the hashes of those documents that are there."""
        return {name: DocumentHashes(one.content, one.row) for name, one in self.fetch(ids).items()}

    def with_content(self, hashes: Sequence[str]) -> dict[str, StoredDocument]:
        """Return, for each content hash that is there, one document that has it."""
        wanted = set(hashes)
        return {one.content: one for one in self.scan() if one.content in wanted}

    def documents_of(self, sources: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of the documents of files."""
        named = self._store.documents_of(sources)
        seen = self.fetch([name for names in named.values() for name in names])
        return {source: [n for n in names if n in seen] for source, names in named.items()}

    def scan(self) -> Iterator[StoredDocument]:
        """Yield every document."""
        return (one for one in self._store.scan() if matches(self.where, one.metadata))

    def sample(self, count: int) -> list[StoredDocument]:
        """Return so many documents from all over the store, the same ones each time."""
        names = sorted(one.id for one in self.outline())
        chosen = names[:: max(1, len(names) // max(1, count))][: max(0, count)]
        return list(self.fetch(chosen).values())

    def outline(
        self, where: Filter | None = None, ids: Sequence[str] | None = None
    ) -> Iterator[DocumentHeader]:
        """Yield the documents that fit; of these ids only where there are some."""
        found = list_documents(self._store, all_of(self.where, where), ids)
        return (one for one in found if matches(self.where, one.metadata))

    def portraits(self, ids: Sequence[str]) -> Iterator[DocumentSummary]:
        """Yield the portraits of those documents that are there."""
        seen = [one.id for one in self.outline(ids=ids)]
        found = summarize_documents(self._store, seen)
        return (one for one in found if matches(self.where, one.metadata))

    def sources(self) -> Iterator[SourceFile]:
        """Yield nothing: source files would reveal documents that do not match."""
        return iter(())

    def settings(self) -> dict[str, Any] | None:
        """Return what the knowledge base must know of itself."""
        return self._store.settings()

    def health(self) -> StoreHealth:
        """Return how many documents there are; the rest is of the whole store."""
        count = self.count()
        return StoreHealth(count, count, None, 0, {}, {})

    def revision(self) -> object:
        """Return a value that changes with every commit."""
        return store_revision(self._store)

    # --- writing ---------------------------------------------------------------------------------

    def save_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse."""
        self._refuse()

    def put(self, documents: Sequence[StoredDocument]) -> None:
        """Refuse."""
        self._refuse()

    def delete(self, ids: Sequence[str]) -> None:
        """Refuse."""
        self._refuse()

    def put_sources(self, sources: Sequence[SourceFile]) -> None:
        """Refuse."""
        self._refuse()

    def delete_sources(self, ids: Sequence[str]) -> None:
        """Refuse."""
        self._refuse()

    def optimize(self) -> list[str]:
        """Refuse."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise AccessError(
            "this knowledge base is limited to some of its documents, and can only be read; "
            "open it without a filter to change it",
            authenticated=True,
        )
