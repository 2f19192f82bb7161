"""`IndexHandle`: follows an index from one generation to the next when a migration switches it."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from opengte.search.index import Index, damaged
from opengte.search.ingest.writer import IngestReport
from opengte.search.model_identity import ModelIdentity
from opengte.search.stores.base import Store

if TYPE_CHECKING:
    from opengte.encoder import Encoder

T = TypeVar("T")


class IndexHandle:
    """The live generation of an index. Safe to use from several threads."""

    def __init__(self, index: Index) -> None:
        """Follow an index that is open already."""
        self._index = index
        self._previous: Index | None = None  # kept open: a rollback returns to it
        self._lock = threading.Lock()

    def latest(self) -> Index:
        """Return the live generation of the index, opened anew if a migration replaced it.

        Searches and changes do this by themselves. An `Index` is fixed: its store, settings and
        model belong together whatever happens to the index meanwhile.

        >>> kb.latest().identity.dimension
        384
        """
        with self._lock:
            if not self._index.is_live():
                previous = self._previous
                known = previous is not None and previous.is_live()
                live = previous if previous is not None and known else self._index.reopen()
                self._index, self._previous = live, self._index
            return self._index

    @property
    def current(self) -> Index:
        """The generation that answers queries: `latest`, except in a bucket.

        Reading a bucket's pointer takes longer than a search: only changes and errors do it.

        >>> kb.current is kb.latest()
        True
        """
        live = self._index.live
        return self._index if live is None or live.remote else self.latest()

    @property
    def place(self) -> str:
        """The folder or URI of the index, without a password.

        >>> kb.place.endswith("kb")
        True
        """
        return self._index.place

    @property
    def store(self) -> Store:
        """The store of the current generation.

        >>> kb.store.count()
        3
        """
        return self.current.store

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the current generation.

        >>> kb.settings["dimension"]
        384
        """
        return self.current.settings

    @property
    def identity(self) -> ModelIdentity:
        """Which model made the vectors of the current generation.

        >>> kb.identity.dimension, kb.identity.max_length
        (384, 512)
        """
        return self.current.identity

    @property
    def encoder(self) -> "Encoder":
        """The model of the current generation, loaded on first use.

        >>> kb.encoder.card.dimension
        384
        """
        return self.current.encoder

    def _read(self, work: Callable[[Index], T]) -> T:
        """Run work that reads; repeat it if the generation was replaced and dropped meanwhile."""
        index = self.current
        try:
            return work(index)
        except Exception as error:
            if index.is_live():
                if (found := damaged(error, index.store, index.place)) is not None:
                    raise found from error
                raise
            self.latest()
            return self._read(work)

    def _write(self, work: Callable[[Index], IngestReport]) -> IngestReport:
        """Run work that writes; repeat it if the generation was replaced meanwhile."""
        while True:
            index = self.latest()
            try:
                report = work(index)
            except Exception as error:  # refused, or the old generation was dropped meanwhile
                if index.is_live():
                    if (found := damaged(error, index.store, index.place)) is not None:
                        raise found from error
                    raise
                continue
            if index.is_live() or not index.live or not index.live.remote:
                return report
