"""Qdrant as a store: a server or cluster, or Qdrant Edge in this process, with one schema.

Qdrant has no transactions, so a commit is one document: all its windows are written in one request,
then surplus windows of the earlier version are removed; readers ignore them meanwhile. A note
records which documents are being written, so that the next `optimize` cleans up after a crash.
Lexical search is Qdrant's own BM25.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from opengte.errors import InputError
from opengte.search.filters import Filter
from opengte.search.segmentation import with_terms
from opengte.search.stores.base import (
    DocumentHashes,
    ScoredIds,
    SourceFile,
    SparseVector,
    StoredDocument,
    StoreHealth,
)
from opengte.search.stores.listing import (
    HEAD_CHARACTERS,
    DocumentHeader,
    DocumentSummary,
    mean_direction,
)
from opengte.search.stores.qdrant.edge import EdgeEngine
from opengte.search.stores.qdrant.engine import NOTES, WINDOWS, QdrantEngine, WindowScores
from opengte.search.stores.qdrant.filters import FilterTranslator, filter_fields
from opengte.search.stores.qdrant.points import (
    LEARNED,
    WINDOW,
    QdrantPoint,
    document_from_points,
    document_points,
    point_id,
    truncate_dimensions,
)
from opengte.search.stores.qdrant.server import ServerEngine
from opengte.types import Floats

EDGE = "qdrant-edge://"
PART = 200  # values of one condition
REQUEST = 2**23  # bytes of one request, roughly: servers refuse 32 MiB
MIN_CANDIDATES, MAX_CANDIDATES = 100, 100_000  # candidates of one search
FIELDS = 64  # of the metadata that are indexed
STALE = 600.0  # seconds after which nobody is writing any more


class QdrantStore:
    """A store in Qdrant."""

    name = "qdrant"

    def __init__(self, engine: QdrantEngine, uri: str) -> None:
        self._engine = engine
        self.uri = uri
        self._filters = FilterTranslator(engine.models, engine.range, engine.distinct)
        self._known: dict[str, Any] | None = None
        self._fields: set[str] = set()

    @classmethod
    def open(cls, place: str, options: Mapping[str, str] | None = None) -> "QdrantStore":
        """Open qdrant://host:6333/name, http(s)://host:6333/name or qdrant-edge:///folder."""
        if place.startswith(EDGE):
            return cls(EdgeEngine.open(place.removeprefix(EDGE)), place)
        return cls(ServerEngine.open(place, options), place)

    # --- settings and files ----------------------------------------------------------------------

    def settings(self) -> dict[str, Any] | None:
        """Return what `save_settings` kept, None where there is nothing."""
        if not self._engine.exists():
            return None
        found = next(self._notes("settings"), None)
        return None if found is None else json.loads(found["value"])

    def save_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep what the knowledge base must know of itself, and make its collections."""
        short = settings.get("first_pass")
        self._engine.create(settings["dimension"], short, settings.get("language"))
        self._note("settings", "", json.dumps(dict(settings)))
        self._known = None

    def sources(self) -> Iterator[SourceFile]:
        """Yield every file that was looked at."""
        for note in self._notes("source"):
            yield SourceFile.from_json(note["id"], note["value"])

    def put_sources(self, sources: Sequence[SourceFile]) -> None:
        """Write what became of files, in place of what was written before."""
        for start in range(0, len(sources), PART):
            part = sources[start : start + PART]
            self._engine.upsert(NOTES, [_noted("source", one.id, one.to_json()) for one in part])

    def delete_sources(self, ids: Sequence[str]) -> None:
        """Forget files."""
        for part in _parts(ids):
            only = self._filters.equal("kind", "source")
            self._engine.delete(NOTES, self._filters.any_of("id", part, only))

    # --- documents -------------------------------------------------------------------------------

    def put(self, documents: Sequence[StoredDocument]) -> None:
        """Write documents, in place of those with the same ids; each is there or not, whole."""
        kept = [one for one in {one.id: one for one in documents}.values() if one.windows]
        if not kept:
            return
        short, commit = self._need().get("first_pass"), uuid.uuid4().hex
        names = [one.id for one in kept]
        self._index_fields(kept)
        self._note("writing", commit, json.dumps([time.time(), names]))
        for batch in _requests(kept, commit, short):
            self._engine.upsert(WINDOWS, batch)
        for part in _parts(names):
            old = self._filters.any_of("id", part, self._filters.other("commit", commit))
            self._engine.delete(WINDOWS, old)
        self._forget("writing", commit)
        self._changed()

    def _index_fields(self, documents: Sequence[StoredDocument]) -> None:
        """Have the fields indexed by which documents are filtered."""
        for field in {
            name for one in documents for name in filter_fields(one.metadata)
        } - self._fields:
            if len(self._fields) < FIELDS:
                self._engine.index(field, number=field.startswith("number_"))
                self._fields.add(field)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents."""
        for part in _parts(ids):
            self._engine.delete(WINDOWS, self._filters.any_of("id", part))
        self._changed()

    def known(self, ids: Sequence[str]) -> dict[str, DocumentHashes]:
        """Return the hashes of those documents that are there."""
        found = self._firsts("id", ids, ["id", "content", "row"])
        return {one["id"]: DocumentHashes(one["content"], one["row"]) for one in found}

    def entries(self) -> Iterator[tuple[str, DocumentHashes]]:
        """Yield the id and the hashes of every document."""
        chosen = self._filters.first_windows()
        for one in self._engine.scroll(WINDOWS, chosen, ["id", "content", "row"]):
            yield one.payload["id"], DocumentHashes(one.payload["content"], one.payload["row"])

    def with_content(self, hashes: Sequence[str]) -> dict[str, StoredDocument]:
        """Return, for each content hash that is there, one document that has it."""
        rows = self._firsts("content", hashes, ["content", "id"])
        names = {one["content"]: one["id"] for one in rows}
        return {one.content: one for one in self.fetch(list(names.values())).values()}

    def fetch(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Return those documents that are there, whole."""
        held: dict[str, list[QdrantPoint]] = {}
        for part in _parts(ids):
            chosen = self._filters.any_of("id", part)
            for one in self._engine.scroll(WINDOWS, chosen, vectors=True):
                held.setdefault(one.payload["id"], []).append(one)
        made = (document_from_points(found) for _, found in sorted(held.items()))
        return {one.id: one for one in made if one is not None}

    def documents_of(self, sources: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of the documents of files."""
        found: dict[str, list[str]] = {source: [] for source in sources}
        for one in self._firsts("source", sources, ["source", "id"]):
            found[one["source"]].append(one["id"])
        return found

    def count(self, where: Filter | None = None) -> int:
        """Return how many documents fit."""
        return self._engine.count(WINDOWS, self._filters.first_windows(where))

    def scan(self) -> Iterator[StoredDocument]:
        """Yield every document, by id; those that are written meanwhile may be among them."""
        names = sorted(name for name, _ in self.entries())
        for start in range(0, len(names), 64):
            yield from self.fetch(names[start : start + 64]).values()

    def sample(self, count: int) -> list[StoredDocument]:
        """Return so many documents from all over the store, the same ones each time."""
        names = sorted(name for name, _ in self.entries())
        chosen = names[:: max(1, len(names) // max(1, count))][: max(0, count)]
        return list(self.fetch(chosen).values())

    def outline(
        self, where: Filter | None = None, ids: Sequence[str] | None = None
    ) -> Iterator[DocumentHeader]:
        """Yield the documents that fit, without texts; of these ids only where there are some."""
        columns = ["id", "title", "metadata"]
        if ids is None:
            chosen = self._filters.first_windows(where)
            found = self._engine.scroll(WINDOWS, chosen, columns)
            rows: Iterator[Mapping[str, Any]] = (one.payload for one in found)
        else:
            more = [] if where is None else [self._filters.of(where)]
            rows = self._firsts("id", ids, columns, *more)
        for row in rows:
            yield DocumentHeader(row["id"], row["title"], json.loads(row["metadata"]))

    def portraits(self, ids: Sequence[str]) -> Iterator[DocumentSummary]:
        """Yield the portraits of those documents that are there."""
        for start in range(0, len(ids), PART):
            for one in self.fetch(ids[start : start + PART]).values():
                vectors = np.array([window.vector for window in one.windows], dtype=np.float32)
                yield DocumentSummary(
                    one.id, mean_direction(vectors), one.text[:HEAD_CHARACTERS], one.metadata
                )

    def revision(self) -> object:
        """Return a value that changes with every commit."""
        found = next(self._notes("revision"), None)
        return None if found is None else found["value"]

    # --- search ----------------------------------------------------------------------------------

    def dense(
        self,
        query: Floats,
        k: int,
        where: Filter | None,
        *,
        exact: bool = False,
    ) -> ScoredIds:
        """Return the k documents closest to a vector (d,); exact looks at every one."""
        short, asked = self._need().get("first_pass"), query.tolist()
        first = truncate_dimensions(query, short).tolist() if short and not exact else None
        chosen = self._filters.whole(where)

        def search(limit: int) -> WindowScores:
            return self._engine.nearest(WINDOW, asked, chosen, limit, exact=exact, first=first)

        return _documents(search, k)

    def lexical(self, query: str, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by BM25."""
        if not query.strip():
            return []
        chosen = self._filters.first_windows(where)
        asked = with_terms(query)
        return _documents(lambda limit: self._engine.words(asked, chosen, limit), k)

    def sparse(self, query: SparseVector, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by learned sparse weights."""
        if not query:
            return []
        chosen = self._filters.whole(where)
        return _documents(lambda limit: self._engine.nearest(LEARNED, query, chosen, limit), k)

    # --- upkeep ----------------------------------------------------------------------------------

    def optimize(self) -> list[str]:
        """Remove what a crash left, and bring the indexes up to date."""
        for note in list(self._notes("writing")):
            began, names = json.loads(note["value"])
            if time.time() - began > STALE:
                self._mend(names)
                self._forget("writing", note["id"])
        self._engine.optimize()
        return []

    def _mend(self, names: Sequence[str]) -> None:
        """Remove windows of documents that are not of the commit of their first window."""
        for one in self._firsts("id", names, ["id", "commit"]):
            other = self._filters.other("commit", one["commit"])
            self._engine.delete(WINDOWS, self._filters.any_of("id", [one["id"]], other))

    def health(self) -> StoreHealth:
        """Return the state of the store."""
        windows, indexed = self._engine.info()
        return StoreHealth(
            documents=self.count(),
            windows=windows,
            bytes=None,
            versions=1,
            unindexed={"words": 0},
            indexes={"words": "BM25"},
            details={"vectors in HNSW": indexed},
        )

    # --- Qdrant ----------------------------------------------------------------------------------

    def _need(self) -> dict[str, Any]:
        """Return the settings, which never change."""
        if self._known is None:
            self._known = self.settings()
        if self._known is None:
            raise InputError(f"`{self.uri}` holds no index")
        return self._known

    def _firsts(
        self, key: str, values: Sequence[str], columns: list[str], *more: Any
    ) -> Iterator[Mapping[str, Any]]:
        """Yield fields of the documents whose key is among the values."""
        for part in _parts(values):
            chosen = self._filters.any_of(key, part, self._filters.equal("window", 0), *more)
            for one in self._engine.scroll(WINDOWS, chosen, columns):
                yield one.payload

    def _notes(self, kind: str) -> Iterator[Mapping[str, Any]]:
        chosen = self._filters.any_of("kind", [kind])
        return (one.payload for one in self._engine.scroll(NOTES, chosen))

    def _note(self, kind: str, name: str, value: str) -> None:
        self._engine.upsert(NOTES, [_noted(kind, name, value)])

    def _forget(self, kind: str, name: str) -> None:
        only = self._filters.equal("kind", kind)
        self._engine.delete(NOTES, self._filters.any_of("id", [name], only))

    def _changed(self) -> None:
        self._note("revision", "", uuid.uuid4().hex)


def _noted(kind: str, name: str, value: str) -> QdrantPoint:
    return QdrantPoint(point_id(kind, name), {}, {"kind": kind, "id": name, "value": value})


def _documents(search: Callable[[int], WindowScores], k: int) -> ScoredIds:
    """Search windows until they belong to k documents, or there are no more."""
    wanted = max(k, MIN_CANDIDATES)
    while True:
        found = search(wanted)
        best: dict[str, float] = {}
        for name, score in found:
            best[name] = max(score, best.get(name, float("-inf")))
        if len(best) >= k or len(found) < wanted or wanted >= MAX_CANDIDATES:
            return sorted(best.items(), key=lambda one: (-one[1], one[0]))[:k]
        wanted = min(MAX_CANDIDATES, wanted * 4)


def _requests(
    documents: Sequence[StoredDocument], commit: str, short: int | None
) -> Iterator[list[QdrantPoint]]:
    """Yield points for one request each; those of one document are together."""
    held: list[QdrantPoint] = []
    size = 0
    for one in documents:
        made = list(document_points(one, commit, short))
        added = sum(12 * len(p.vectors[WINDOW]) + len(str(p.payload)) for p in made)
        if held and size + added > REQUEST:
            yield held
            held, size = [], 0
        held += made
        size += added
    yield held


def _parts(values: Sequence[str]) -> Iterator[list[str]]:
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), PART):
        yield distinct[start : start + PART]
