"""The protocol of a store, and the records that it stores.

A store holds documents, each with its windows. Writing a set of documents is one commit: after a
crash either all of them are there or none. Readers see only whole commits.

Letters in shapes: d width of a vector, s spans of a window.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from opengte.engine.maxsim import TokenVectors
from opengte.search.filters import Filter
from opengte.search.parse.base import Scalar, Section
from opengte.types import Floats

SparseVector = Mapping[int, float]  # token id -> weight > 0
ScoredIds = list[tuple[str, float]]  # documents and scores, best first


@dataclass(frozen=True, eq=False)
class SpanVectors:
    """Passages of a window: bounds (s, 2) int32, characters of the text; vectors (s, d) int8, each
    to be multiplied by its scale (s,) float32."""

    bounds: npt.NDArray[np.int32]
    vectors: npt.NDArray[np.int8]
    scales: Floats

    def floats(self) -> Floats:
        """Return the vectors (s, d) as float32."""
        return self.vectors.astype(np.float32) * self.scales[:, None]


@dataclass(frozen=True, eq=False)
class StoredWindow:
    """One window: text[start:end], its vector (d,), its spans, its tokens.

    late has the int8 token vectors of each span, of an index with late interaction.
    """

    start: int
    end: int
    vector: Floats
    spans: SpanVectors
    tokens: int
    sparse: SparseVector = field(default_factory=dict)
    late: TokenVectors | None = None


@dataclass(frozen=True, eq=False)
class StoredDocument:
    """A document as it is kept.

    content is a hash of what was embedded, row one of everything else; both together say whether
    a document is the same as before. signature agrees with those of texts that are nearly equal.
    """

    id: str
    source: str
    title: str
    text: str
    content: str
    row: str
    signature: bytes
    windows: tuple[StoredWindow, ...]
    line: int | None = None
    truncated: bool = False
    sections: tuple[Section, ...] = ()
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    indexed: float = 0.0  # seconds since 1970


@dataclass(frozen=True)
class SourceFile:
    """A file that was looked at: the hash of its bytes, and what became of it.

    digest is "" where the file must be looked at again. problems say what failed, warnings what
    is doubtful, skipped is (part, reason) of what was not indexed on purpose; the part "" is the
    file itself. A folder that was not entered is recorded like a file.
    """

    id: str
    digest: str
    documents: int
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def is_skipped(self) -> bool:
        """Whether nothing of the file was indexed, on purpose."""
        return bool(self.skipped) and not self.documents and not self.problems

    def to_json(self) -> str:
        """Return everything but the id."""
        values = asdict(self)
        del values["id"]
        return json.dumps(values)

    @classmethod
    def from_json(cls, name: str, value: str) -> "SourceFile":
        """Return what `to_json` wrote; earlier versions wrote lists, or fewer fields."""
        found = json.loads(value)
        if isinstance(found, list):
            found = dict(zip(("digest", "documents", "problems", "warnings"), found, strict=True))
        for key in ("problems", "warnings"):
            found[key] = tuple(found[key])
        skipped = tuple((part, reason) for part, reason in found.pop("skipped", ()))
        return cls(id=name, skipped=skipped, **found)


@dataclass(frozen=True)
class DocumentHashes:
    """What tells whether a document changed: see StoredDocument."""

    content: str
    row: str


@dataclass(frozen=True)
class StoreHealth:
    """The state of a store: sizes, and how much of it no index covers yet."""

    documents: int
    windows: int
    bytes: int | None
    versions: int
    unindexed: Mapping[str, int]  # index -> rows
    indexes: Mapping[str, str]  # index -> kind
    details: Mapping[str, Any] = field(default_factory=dict)


class Store(Protocol):
    """Keeps documents and finds them by vector, by words and by learned sparse weights.

    Scores: dense is the dot product of unit vectors, lexical BM25, sparse the dot product of
    weights; a document has the score of its best window. `where` limits what is looked at, before
    and not after the search.
    """

    name: str

    def settings(self) -> dict[str, Any] | None:
        """Return what `save_settings` kept, None in a store that is empty."""
        ...

    def save_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep what the knowledge base must know of itself."""
        ...

    def put(self, documents: Sequence[StoredDocument]) -> None:
        """Write documents in one commit, in place of those with the same ids."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents in one commit."""
        ...

    def known(self, ids: Sequence[str]) -> dict[str, DocumentHashes]:
        """Return the hashes of those documents that are there."""
        ...

    def with_content(self, hashes: Sequence[str]) -> dict[str, StoredDocument]:
        """Return, for each content hash that is there, one document that has it."""
        ...

    def fetch(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Return those documents that are there, whole."""
        ...

    def documents_of(self, sources: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of the documents of files."""
        ...

    def sources(self) -> Iterator[SourceFile]:
        """Yield every file that was looked at."""
        ...

    def put_sources(self, sources: Sequence[SourceFile]) -> None:
        """Write what became of files, in place of what was written before."""
        ...

    def delete_sources(self, ids: Sequence[str]) -> None:
        """Forget files."""
        ...

    def dense(
        self,
        query: Floats,
        k: int,
        where: Filter | None,
        *,
        exact: bool = False,
    ) -> ScoredIds:
        """Return the k documents closest to a vector (d,); exact looks at every one."""
        ...

    def lexical(self, query: str, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by BM25."""
        ...

    def sparse(self, query: SparseVector, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by learned sparse weights."""
        ...

    def count(self, where: Filter | None = None) -> int:
        """Return how many documents fit."""
        ...

    def scan(self) -> Iterator[StoredDocument]:
        """Yield every document of one version of the store."""
        ...

    def sample(self, count: int) -> list[StoredDocument]:
        """Return so many documents from all over the store, the same ones each time."""
        ...

    def optimize(self) -> Iterable[str]:
        """Bring the indexes up to date and tidy up; return what could not be done, and why."""
        ...

    def health(self) -> StoreHealth:
        """Return the state of the store."""
        ...
