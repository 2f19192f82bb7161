"""Where Qdrant runs: a server, reached by `qdrant-client`, or Qdrant Edge, in this process.

Both keep the same points in the same schema: a collection (for Edge a shard) of windows, and one of
notes, which are settings and files.
"""

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from opengte.errors import InputError, MissingExtraError
from opengte.search.stores.qdrant.points import LEARNED, SHORT, WINDOW, WORDS, QdrantPoint

WINDOWS, NOTES = "windows", "notes"
KEYWORDS = ("id", "source", "content", "commit")
PAGE = 256  # points of one answer
TEXTS = 100_000  # distinct texts of a field that are told apart
WindowScores = list[tuple[str, float]]  # document of each window, and its score
Vector = Sequence[float] | Mapping[int, float]


class QdrantEngine(Protocol):
    """What the store asks of either."""

    @property
    def models(self) -> Any:
        """Where the classes of filters are."""
        ...

    @property
    def range(self) -> Any:
        """The class for ranges of numbers."""
        ...

    def exists(self) -> bool:
        """Return whether there are collections."""
        ...

    def create(self, width: int, short: int | None, language: str | None) -> None:
        """Make the collections, and the indexes of fields that every document has."""
        ...

    def index(self, field: str, *, number: bool) -> None:
        """Index a field of the metadata, unless it is."""
        ...

    def upsert(self, where: str, points: Sequence[QdrantPoint]) -> None:
        """Write points in place of those with the same ids; they are seen when this returns."""
        ...

    def delete(self, where: str, chosen: Any) -> None:
        """Remove the points that fit a filter."""
        ...

    def scroll(
        self, where: str, chosen: Any, fields: list[str] | None = None, *, vectors: bool = False
    ) -> Iterator[QdrantPoint]:
        """Yield the points that fit a filter, with these fields, or all of them."""
        ...

    def count(self, where: str, chosen: Any) -> int:
        """Return how many points fit."""
        ...

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
        """Return windows by their dot product; first finds candidates by the short vectors."""
        ...

    def words(self, text: str, chosen: Any, limit: int) -> WindowScores:
        """Return first windows by BM25."""
        ...

    def distinct(self, field: str) -> list[str]:
        """Return the texts that a field has."""
        ...

    def optimize(self) -> None:
        """Bring the indexes up to date, where that is not done by itself."""
        ...

    def info(self) -> tuple[int, int]:
        """Return how many windows there are, and how many of their vectors are in an index."""
        ...


class ServerEngine:
    """A Qdrant server or cluster; two collections whose names begin with the given one."""

    def __init__(self, client: Any, name: str, place: str) -> None:
        from qdrant_client import models

        self.models = models
        self.range = models.Range
        self._client = client
        self._place = place
        self._names = {WINDOWS: name, NOTES: f"{name}_notes"}

    @classmethod
    def open(cls, place: str, options: Mapping[str, str] | None = None) -> "ServerEngine":
        """Reach the server of qdrant://host:port/name, or http(s)://; the key is QDRANT_API_KEY."""
        try:
            from qdrant_client import QdrantClient
        except ImportError:
            raise MissingExtraError("qdrant-client", "qdrant", "An index in Qdrant") from None
        scheme, _, rest = place.partition("://")
        host, _, name = rest.strip("/").partition("/")
        if not host or not name or "/" in name or "@" in host:
            raise InputError(
                f"`{scheme}://…` is no place in Qdrant: expected {scheme}://HOST:6333/NAME, and a "
                "key, if there is one, in QDRANT_API_KEY"
            )
        url = f"{'https' if scheme == 'https' else 'http'}://{host}"
        key = (options or {}).get("api_key") or os.environ.get("QDRANT_API_KEY")
        port = None if ":" in host else 6333
        client = QdrantClient(url=url, port=port, api_key=key, check_compatibility=False)
        return cls(client, name, place)

    def exists(self) -> bool:
        """Return whether there are collections."""
        with self._told():
            return bool(self._client.collection_exists(self._names[NOTES]))

    def create(self, width: int, short: int | None, language: str | None) -> None:
        """Make the collections, and the indexes of fields that every document has."""
        m = self.models
        vectors = {WINDOW: m.VectorParams(size=width, distance=m.Distance.DOT)}
        if short:
            vectors[SHORT] = m.VectorParams(size=short, distance=m.Distance.DOT)
            vectors[WINDOW].hnsw_config = m.HnswConfigDiff(m=0)
        with self._told():
            if self._client.collection_exists(self._names[WINDOWS]):
                self._check_own()
            else:
                self._client.create_collection(
                    self._names[WINDOWS],
                    vectors_config=vectors,
                    sparse_vectors_config={LEARNED: m.SparseVectorParams()},
                )
            for field in KEYWORDS:
                self._index(field, m.KeywordIndexParams(type="keyword"))
            self._index("window", m.IntegerIndexParams(type="integer"))
            snowball = {"type": "snowball", "language": language and language.lower()}
            words = m.TextIndexParams(
                type="text",
                tokenizer="word",
                lowercase=True,
                ascii_folding=True,
                stemmer=m.SnowballParams(**snowball) if language else None,
                scoring=True,
            )
            self._index(WORDS, words)
            if not self._client.collection_exists(self._names[NOTES]):
                self._client.create_collection(self._names[NOTES], vectors_config={})
                kind = m.KeywordIndexParams(type="keyword")
                for field in ("kind", "id"):
                    self._client.create_payload_index(self._names[NOTES], field, kind)

    def _check_own(self) -> None:
        """Refuse a collection that somebody else filled."""
        if not self.exists() and self.info()[0]:
            raise InputError(
                f"`{self._place}` is a collection with other points; choose another name"
            )

    def index(self, field: str, *, number: bool) -> None:
        """Index a field of the metadata, unless it is."""
        m = self.models
        with self._told():
            self._index(
                field,
                m.FloatIndexParams(type="float")
                if number
                else m.KeywordIndexParams(type="keyword", prefix=True),
            )

    def _index(self, field: str, schema: Any) -> None:
        self._client.create_payload_index(self._names[WINDOWS], field, schema, wait=True)

    def upsert(self, where: str, points: Sequence[QdrantPoint]) -> None:
        """Write points in place of those with the same ids."""
        made = [
            self.models.PointStruct(
                id=one.id,
                vector={name: self._vector(value) for name, value in one.vectors.items()},
                payload=dict(one.payload),
            )
            for one in points
        ]
        with self._told():
            self._client.upsert(self._names[where], made, wait=True)

    def _vector(self, value: Vector) -> Any:
        if isinstance(value, Mapping):
            tokens = sorted(value)
            weights = [value[token] for token in tokens]
            return self.models.SparseVector(indices=tokens, values=weights)
        return list(value)

    def delete(self, where: str, chosen: Any) -> None:
        """Remove the points that fit a filter."""
        with self._told():
            selector = self.models.FilterSelector(filter=chosen)
            self._client.delete(self._names[where], selector, wait=True)

    def scroll(
        self, where: str, chosen: Any, fields: list[str] | None = None, *, vectors: bool = False
    ) -> Iterator[QdrantPoint]:
        """Yield the points that fit a filter."""
        offset: Any = None
        while True:
            with self._told():
                found, offset = self._client.scroll(
                    self._names[where],
                    scroll_filter=chosen,
                    limit=PAGE,
                    offset=offset,
                    with_payload=True if fields is None else fields,
                    with_vectors=vectors,
                )
            yield from map(_point, found)
            if offset is None:
                return

    def count(self, where: str, chosen: Any) -> int:
        """Return how many points fit."""
        with self._told():
            found = self._client.count(self._names[where], count_filter=chosen, exact=True)
            return int(found.count)

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
            before = m.Prefetch(query=list(first), using=SHORT, filter=chosen, limit=limit)
        return self._hits(
            query=self._vector(vector),
            using=name,
            prefetch=before,
            query_filter=None if before else chosen,
            search_params=m.SearchParams(exact=True) if exact else None,
            limit=limit,
        )

    def words(self, text: str, chosen: Any, limit: int) -> WindowScores:
        """Return first windows by BM25."""
        query = self.models.TextQuery(text=text)
        return self._hits(query=query, using=WORDS, query_filter=chosen, limit=limit)

    def _hits(self, **request: Any) -> WindowScores:
        with self._told():
            found = self._client.query_points(
                self._names[WINDOWS], with_payload=["id"], **request
            ).points
        return [(one.payload["id"], float(one.score)) for one in found]

    def distinct(self, field: str) -> list[str]:
        """Return the texts that a field has."""
        self.index(field, number=False)
        with self._told():
            found = self._client.facet(self._names[WINDOWS], field, limit=TEXTS).hits
        return _few([str(one.value) for one in found], field)

    def optimize(self) -> None:
        """Do nothing: a server does this by itself."""

    def info(self) -> tuple[int, int]:
        """Return how many windows there are, and how many of their vectors are in an index."""
        with self._told():
            found = self._client.get_collection(self._names[WINDOWS])
        return int(found.points_count or 0), int(found.indexed_vectors_count or 0)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn errors of the client into ours."""
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        try:
            yield
        except UnexpectedResponse as error:
            reason = (error.content or b"").decode("utf-8", "replace")[:300]
            raise InputError(f"`{self._place}` answered {error.status_code}: {reason}") from error
        except ResponseHandlingException as error:
            raise OSError(f"`{self._place}` cannot be reached: {error}") from error


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
            yield from map(_point, found)
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
        return _few([str(one.value) for one in found.hits], field)

    def optimize(self) -> None:
        """Bring the indexes up to date."""
        for shard in self._shards.values():
            shard.optimize()
            shard.flush()

    def info(self) -> tuple[int, int]:
        """Return how many windows there are, and how many of their vectors are in an index."""
        found = self._shards[WINDOWS].info()
        return int(found.points_count), int(found.indexed_vectors_count)


def _point(record: Any) -> QdrantPoint:
    vectors = record.vector if isinstance(record.vector, Mapping) else {}
    return QdrantPoint(
        str(record.id),
        {name: _read(value) for name, value in vectors.items()},
        record.payload or {},
    )


def _read(value: Any) -> Any:
    if hasattr(value, "indices"):
        return dict(zip(value.indices, value.values, strict=True))
    return value


def _few(texts: list[str], field: str) -> list[str]:
    if len(texts) >= TEXTS:
        raise InputError(
            f"`{field}` has {TEXTS:,} different texts or more, too many for Qdrant to compare by "
            "their order; use =, starts or contains"
        )
    return texts
