"""Qdrant Edge: the engine of Qdrant in this process, with a folder to itself."""

import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from opengte.errors import InputError, MissingExtraError
from opengte.search.stores.qdrant.engine import (
    KEYWORDS,
    NOTES,
    PAGE,
    TEXTS,
    WINDOWS,
    Vector,
    WindowScores,
    checked_distinct,
    to_point,
)
from opengte.search.stores.qdrant.points import LEARNED, SHORT, WINDOW, WORDS, QdrantPoint


class EdgeEngine:
    """Qdrant Edge in a folder: the engine itself, in this process, which has it to itself."""

    _open: ClassVar[weakref.WeakValueDictionary[str, "EdgeEngine"]] = weakref.WeakValueDictionary()
    _opening: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, folder: str) -> None:
        try:
            import qdrant_edge
        except ImportError:
            raise MissingExtraError("qdrant-edge-py", "qdrant", "Qdrant Edge") from None
        self.models = qdrant_edge
        self.range = qdrant_edge.RangeFloat
        self._folder = folder
        self._shards: dict[str, Any] = {}
        self._indexed: set[str] = set()
        for name in (WINDOWS, NOTES):
            path = os.path.join(folder, name)
            if os.path.isdir(path) and os.listdir(path):
                self._shards[name] = self._loaded(path)

    @classmethod
    def open(cls, folder: str) -> "EdgeEngine":
        """Return the engine of a folder, one for this process."""
        path = os.path.abspath(folder)
        with cls._opening:
            engine = cls._open.get(path)
            if engine is None:
                engine = cls._open[path] = cls(path)
            return engine

    def _loaded(self, path: str) -> Any:
        try:
            return self.models.EdgeShard.load(path)
        except Exception as error:  # the package has no errors of its own
            if "WouldBlock" in str(error):
                raise InputError(
                    f"`{self._folder}` is open in another process; Qdrant Edge lets one in at a "
                    "time: end it, or index into a server"
                ) from error
            raise OSError(f"`{self._folder}` cannot be opened: {error}") from error

    def exists(self) -> bool:
        """Return whether there are shards."""
        return NOTES in self._shards

    def create(self, width: int, short: int | None, language: str | None) -> None:
        """Make the shards, and the indexes of fields that every document has."""
        m = self.models
        if WINDOWS not in self._shards:
            vectors = {WINDOW: m.EdgeVectorParams(size=width, distance=m.Distance.Dot)}
            if short:
                vectors[SHORT] = m.EdgeVectorParams(size=short, distance=m.Distance.Dot)
            sparse = {LEARNED: m.EdgeSparseVectorParams()}
            self._make(WINDOWS, m.EdgeConfig(vectors=vectors, sparse_vectors=sparse))
        for field in KEYWORDS:
            self._index(field, m.KeywordIndexParams())
        self._index("window", m.IntegerIndexParams())
        stemmer = m.SnowballParams(self._language(language)) if language else None
        words = m.TextIndexParams(
            tokenizer=m.TokenizerType.Word,
            lowercase=True,
            ascii_folding=True,
            stemmer=stemmer,
            scoring=True,
        )
        self._index(WORDS, words)
        if NOTES not in self._shards:
            nothing = {LEARNED: m.EdgeSparseVectorParams()}
            self._make(NOTES, m.EdgeConfig(sparse_vectors=nothing))

    def _make(self, name: str, config: Any) -> None:
        path = os.path.join(self._folder, name)
        os.makedirs(path, exist_ok=True)
        self._shards[name] = self.models.EdgeShard.create(path, config)

    def _language(self, language: str) -> Any:
        found = getattr(self.models.SnowballLanguage, language.capitalize(), None)
        if found is None:
            raise InputError(f"language is {language!r}, which Qdrant does not stem; try none")
        return found

    def index(self, field: str, *, number: bool) -> None:
        """Index a field of the metadata, unless it is."""
        m = self.models
        if field not in self._indexed:
            self._index(
                field, m.FloatIndexParams() if number else m.KeywordIndexParams(prefix=True)
            )

    def _index(self, field: str, schema: Any) -> None:
        if field not in self._shards[WINDOWS].info().payload_schema:
            operation = self.models.UpdateOperation.create_field_index(field, schema)
            self._shards[WINDOWS].update(operation)
        self._indexed.add(field)

    def upsert(self, where: str, points: Sequence[QdrantPoint]) -> None:
        """Write points, and flush them to the disk."""
        made = [
            self.models.Point(
                id=one.id,
                vector={name: self._vector(value) for name, value in one.vectors.items()},
                payload=dict(one.payload),
            )
            for one in points
        ]
        self._shards[where].update(self.models.UpdateOperation.upsert_points(made))
        self._shards[where].flush()

    def _vector(self, value: Vector) -> Any:
        if isinstance(value, Mapping):
            tokens = sorted(value)
            return self.models.SparseVector(tokens, [value[token] for token in tokens])
        return list(value)

    def delete(self, where: str, chosen: Any) -> None:
        """Remove the points that fit a filter."""
        operation = self.models.UpdateOperation.delete_points_by_filter(chosen)
        self._shards[where].update(operation)
        self._shards[where].flush()

    def scroll(
        self, where: str, chosen: Any, fields: list[str] | None = None, *, vectors: bool = False
    ) -> Iterator[QdrantPoint]:
        """Yield the points that fit a filter."""
        offset: Any = None
        while True:
            request = self.models.ScrollRequest(
                offset=offset,
                limit=PAGE,
                filter=chosen,
                with_payload=True if fields is None else fields,
                with_vector=vectors,
            )
            found, offset = self._shards[where].scroll(request)
            yield from map(to_point, found)
            if offset is None:
                return

    def count(self, where: str, chosen: Any) -> int:
        """Return how many points fit."""
        request = self.models.CountRequest(filter=chosen, exact=True)
        return int(self._shards[where].count(request))

    def nearest(
        self,
        name: str,
        vector: Vector,
        chosen: Any,
        limit: int,
        *,
        exact: bool = False,
        first: Sequence[float] | None = None,
    ) -> WindowScores:
        """Return windows by their dot product."""
        m = self.models
        before = None
        if first is not None:
            short = m.Query.Nearest(list(first), using=SHORT)
            before = [m.Prefetch(limit=limit, query=short, filter=chosen)]
        return self._hits(
            query=m.Query.Nearest(self._vector(vector), using=name),
            prefetches=before,
            filter=None if before else chosen,
            params=m.SearchParams(exact=exact),
            limit=limit,
        )

    def words(self, text: str, chosen: Any, limit: int) -> WindowScores:
        """Return first windows by BM25."""
        query = self.models.TextQuery(field=WORDS, query=text)
        return self._hits(query=query, filter=chosen, limit=limit)

    def _hits(self, **request: Any) -> WindowScores:
        found = self._shards[WINDOWS].query(
            self.models.QueryRequest(with_payload=["id"], **request)
        )
        return [(one.payload["id"], float(one.score)) for one in found]

    def distinct(self, field: str) -> list[str]:
        """Return the texts that a field has."""
        self.index(field, number=False)
        found = self._shards[WINDOWS].facet(self.models.FacetRequest(key=field, limit=TEXTS))
        return checked_distinct([str(one.value) for one in found.hits], field)

    def optimize(self) -> None:
        """Bring the indexes up to date."""
        for shard in self._shards.values():
            shard.optimize()
            shard.flush()

    def info(self) -> tuple[int, int]:
        """Return how many windows there are, and how many of their vectors are in an index."""
        found = self._shards[WINDOWS].info()
        return int(found.points_count), int(found.indexed_vectors_count)
