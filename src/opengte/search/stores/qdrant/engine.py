"""What the store needs of Qdrant, whether it runs as a server or in this process.

Both engines store the same points with the same schema: a collection (for Edge a shard) of windows,
and one of notes, which are settings and source files.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from opengte.errors import InputError
from opengte.search.stores.qdrant.points import QdrantPoint

WINDOWS, NOTES = "windows", "notes"
KEYWORDS = ("id", "source", "content", "commit")
PAGE = 256  # points of one response
TEXTS = 100_000  # distinct texts of a field that can be compared by their order
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


def to_point(record: Any) -> QdrantPoint:
    """Return a point of the client or of the engine as ours."""
    vectors = record.vector if isinstance(record.vector, Mapping) else {}
    return QdrantPoint(
        str(record.id),
        {name: _vector_value(value) for name, value in vectors.items()},
        record.payload or {},
    )


def _vector_value(value: Any) -> Any:
    if hasattr(value, "indices"):
        return dict(zip(value.indices, value.values, strict=True))
    return value


def checked_distinct(texts: list[str], field: str) -> list[str]:
    """Return distinct texts of a field; InputError if there are too many to compare."""
    if len(texts) >= TEXTS:
        raise InputError(
            f"`{field}` has {TEXTS:,} different texts or more, too many for Qdrant to compare by "
            "their order; use =, starts or contains"
        )
    return texts
