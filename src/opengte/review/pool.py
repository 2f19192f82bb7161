"""The documents that a review computes anew: all of a small index, a part of a large one.

Of a large index, those that any query may find are taken, and a random sample of the others. A
sampled document stands for many: one that is ahead of an answer pushes it down by as many ranks
as it stands for (Horvitz and Thompson 1952), so that the expected rank is that in all documents.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from opengte.review.sources import SourceDifferences
from opengte.review.vectors import Texts, texts_of
from opengte.search.minhash import signature
from opengte.search.stores.base import Store, StoredDocument, StoredWindow
from opengte.search.stores.listing import list_documents

LARGEST = 5_000  # documents; an index of so many is replayed whole
SAMPLED = 1_000  # of the others of a larger one


@dataclass(eq=False)
class Pool:
    """Documents by id; sampled ones stand for `share` documents each, of `total` in the index."""

    documents: dict[str, StoredDocument]
    sampled: frozenset[str] = frozenset()
    share: float = 1.0
    total: int = 0
    differences: SourceDifferences = SourceDifferences({}, {})
    terms: dict[tuple[str | None, str], Counter[str]] = field(default_factory=dict)

    def weight(self, name: str) -> float:
        """Return how many documents a document stands for."""
        return self.share if name in self.sampled else 1.0

    def names(self, *, sources: bool = False) -> list[str]:
        """Return the ids, those that only the sources have at the end."""
        more = [x for x in self.differences.texts if x not in self.documents] if sources else []
        return [*self.documents, *more]

    def texts(self, *, sources: bool = False) -> list[Texts]:
        """Return title, text and sections of each document, in the order of `names`."""
        changed = self.differences.texts if sources else {}
        names = self.names(sources=sources)
        return [changed[x] if x in changed else texts_of(self.documents[x]) for x in names]

    def read(self, *, sources: bool = False) -> dict[str, StoredDocument]:
        """Return the documents with the texts of their sources, where those are asked for."""
        if not sources or not self.differences.texts:
            return self.documents
        if not hasattr(self, "_read"):
            made = {x: self._changed(x, text) for x, text in self.differences.texts.items()}
            self._read = {**self.documents, **made}
        return self._read

    def _changed(self, name: str, texts: Texts) -> StoredDocument:
        title, text, sections = texts
        known = self.documents.get(name)
        empty = np.zeros(next(iter(self.documents.values())).windows[0].vector.shape, np.float32)
        base = known or next(iter(self.documents.values()))
        spans = replace(
            base.windows[0].spans,
            bounds=base.windows[0].spans.bounds[:0],
            vectors=base.windows[0].spans.vectors[:0],
            scales=base.windows[0].spans.scales[:0],
        )
        window = StoredWindow(0, min(len(text), 1500), empty, spans, 0)
        return replace(
            base,
            id=name,
            title=title,
            text=text,
            sections=tuple(sections),
            signature=signature(text),
            windows=(window,),
            metadata=known.metadata if known else {},
        )


def whole_pool(store: Store) -> Pool:
    """Return all documents of an index."""
    documents = {one.id: one for one in store.scan()}
    return Pool(documents, total=len(documents))


def part_pool(
    store: Store, certain: Iterable[str], *, seed: int = 0, sampled: int = SAMPLED
) -> Pool:
    """Return certain documents, and a random sample of the others that stands for all of them."""
    wanted = set(certain)
    others = sorted(x.id for x in list_documents(store) if x.id not in wanted)
    chance = np.random.default_rng(seed)
    count = min(sampled, len(others))
    chosen = [others[i] for i in sorted(chance.choice(len(others), count, replace=False).tolist())]
    names = [*sorted(wanted), *chosen]
    documents: dict[str, StoredDocument] = {}
    for start in range(0, len(names), 256):
        documents |= store.fetch(names[start : start + 256])
    held = {x: documents[x] for x in names if x in documents}
    share = len(others) / count if count else 1.0
    return Pool(held, frozenset(chosen), share, total=len(others) + len(wanted))
