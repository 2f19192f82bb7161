"""A Qdrant server or cluster, reached by `qdrant-client`."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
        with self._errors():
            return bool(self._client.collection_exists(self._names[NOTES]))

    def create(self, width: int, short: int | None, language: str | None) -> None:
        """Make the collections, and the indexes of fields that every document has."""
        m = self.models
        vectors = {WINDOW: m.VectorParams(size=width, distance=m.Distance.DOT)}
        if short:
            vectors[SHORT] = m.VectorParams(size=short, distance=m.Distance.DOT)
            vectors[WINDOW].hnsw_config = m.HnswConfigDiff(m=0)
        with self._errors():
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
        with self._errors():
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
        with self._errors():
            self._client.upsert(self._names[where], made, wait=True)

    def _vector(self, value: Vector) -> Any:
        if isinstance(value, Mapping):
            tokens = sorted(value)
            weights = [value[token] for token in tokens]
            return self.models.SparseVector(indices=tokens, values=weights)
        return list(value)

    def delete(self, where: str, chosen: Any) -> None:
        """Remove the points that fit a filter."""
        with self._errors():
            selector = self.models.FilterSelector(filter=chosen)
            self._client.delete(self._names[where], selector, wait=True)

    def scroll(
        self, where: str, chosen: Any, fields: list[str] | None = None, *, vectors: bool = False
    ) -> Iterator[QdrantPoint]:
        """Yield the points that fit a filter."""
        offset: Any = None
        while True:
            with self._errors():
                found, offset = self._client.scroll(
                    self._names[where],
                    scroll_filter=chosen,
                    limit=PAGE,
                    offset=offset,
                    with_payload=True if fields is None else fields,
                    with_vectors=vectors,
                )
            yield from map(to_point, found)
            if offset is None:
                return

    def count(self, where: str, chosen: Any) -> int:
        """Return how many points fit."""
        with self._errors():
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
        with self._errors():
            found = self._client.query_points(
                self._names[WINDOWS], with_payload=["id"], **request
            ).points
        return [(one.payload["id"], float(one.score)) for one in found]

    def distinct(self, field: str) -> list[str]:
        """Return the texts that a field has."""
        self.index(field, number=False)
        with self._errors():
            found = self._client.facet(self._names[WINDOWS], field, limit=TEXTS).hits
        return checked_distinct([str(one.value) for one in found], field)

    def optimize(self) -> None:
        """Do nothing: a server does this by itself."""

    def info(self) -> tuple[int, int]:
        """Return how many windows there are, and how many of their vectors are in an index."""
        with self._errors():
            found = self._client.get_collection(self._names[WINDOWS])
        return int(found.points_count or 0), int(found.indexed_vectors_count or 0)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the client into ours."""
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        try:
            yield
        except UnexpectedResponse as error:
            reason = (error.content or b"").decode("utf-8", "replace")[:300]
            raise InputError(f"`{self._place}` answered {error.status_code}: {reason}") from error
        except ResponseHandlingException as error:
            raise OSError(f"`{self._place}` cannot be reached: {error}") from error
