"""What the routes answer with: one knowledge base, as those see it who may see a part of it."""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from opengte.errors import InputError, NotFoundError
from opengte.search.access import both, limited
from opengte.search.analysis.facets import Catalogue
from opengte.search.analysis.map import Atlas, draw
from opengte.search.filters import Filter, parse
from opengte.search.retrieval.search import (
    Answer,
    Asked,
    Hit,
    LegScore,
    best_passage,
    marks,
    query_words,
)
from opengte.search.stores.base import StoredDocument
from opengte.search.stores.listing import direction, revision
from opengte.search.web.schemas import Document, Limited, Near, Search
from opengte.types import Floats

if TYPE_CHECKING:
    from opengte.encoder import Reranker
    from opengte.search.kb import KnowledgeBase

T = TypeVar("T")
Json = dict[str, Any]

SHOWN = 4_000  # characters of a passage
PART = 200_000  # characters of a document that are sent at once
KEPT = 16  # catalogues and maps that are kept
FRESH = 1.0  # seconds before it is asked again whether the index was switched to another model
OLD = 30.0  # seconds after which they are made again, where a store does not tell its revision


class Desk:
    """A knowledge base under a name. Nobody sees more of it than `where`; a visitor may see less.

    Every method takes the filter of its visitor; a document outside is not there. Safe to use from
    several threads.
    """

    def __init__(
        self,
        name: str,
        kb: "KnowledgeBase",
        where: Filter | None = None,
        load_reranker: "Callable[[], Reranker] | None" = None,
    ) -> None:
        self.name = name
        self._kb, self._looked = kb, -1e9
        self._where = where
        self._load_reranker = load_reranker
        self._reranker: Reranker | None = None
        self._reranker_lock = threading.Lock()
        self._catalogues: _Kept[Catalogue] = _Kept()
        self._maps: _Kept[Atlas] = _Kept()

    def warm(self) -> None:
        """Load the model, so that the first question need not wait for it."""
        _ = self._now().encoder

    def _seen(self, visitor: Filter | None) -> "KnowledgeBase":
        """Return the knowledge base as a visitor sees it."""
        return limited(self._now(), both(self._where, visitor))

    def _now(self) -> "KnowledgeBase":
        """Return the knowledge base with the model that it has now, or had a second ago."""
        if time.monotonic() - self._looked > FRESH:
            self._kb, self._looked = self._kb.latest(), time.monotonic()
        return self._kb

    # --- what the routes ask ---------------------------------------------------------------------

    def about(self, visitor: Filter | None) -> Json:
        """Return what there is to know before the first question."""
        kb = self._seen(visitor)
        legs = ["dense", *(["sparse"] if "sparse" in kb.encoder.card.outputs else []), "lexical"]
        return {
            "name": self.name,
            "documents": kb.store.count(),
            "model": _public(kb.identity.model),
            "legs": legs,
            "reranker": self._load_reranker is not None,
            "language": kb.settings.get("language"),
        }

    def tokens(self, text: str) -> int:
        """Return how many tokens of the model a question has."""
        return int(self._now().encoder.tokenizer.count([text])[0])

    def search(self, asked: Search, visitor: Filter | None) -> Json:
        """Answer a question."""
        kb = self._seen(visitor)
        answer = kb.search(
            asked.query,
            asked.k,
            where=dict(asked.where),
            reranker=self._ranker() if asked.rerank else None,
            **asked.options(),
        )
        secret = not getattr(kb.store, "tells_words", True)
        found: Json = {
            "kb": self.name,
            "query": asked.query,
            "hits": [_hit(hit, asked.query, secret=secret) for hit in answer.hits],
            "candidates": dict(answer.candidates),
            "milliseconds": {k: round(1000 * v, 2) for k, v in answer.seconds.items()},
            "underfilled": answer.underfilled,
            "notes": list(answer.notes),
        }
        if answer.confidence is not None and kb.calibration is not None:
            found["threshold"] = kb.calibration.accuracy.threshold
        return found | _confidence(answer)

    def document(self, asked: Document, visitor: Filter | None) -> Json:
        """Return a document, or a part of a long one, with the passage that answers a question."""
        kb = self._seen(visitor)
        one = self._fetched(kb, asked.id)
        passage = None
        if asked.query is not None:
            passage = best_passage(one, kb.ask(asked.query))
        wanted = asked.at if asked.at is not None else passage.start if passage else 0
        start, end = _part(len(one.text), wanted)
        text = one.text[start:end]
        return {
            "kb": self.name,
            "id": one.id,
            "title": one.title,
            "source": one.source,
            "line": one.line,
            "metadata": dict(one.metadata),
            "warnings": list(one.warnings),
            "truncated": one.truncated,
            "indexed": one.indexed,
            "windows": len(one.windows),
            "tokens": sum(window.tokens for window in one.windows),
            "characters": len(one.text),
            "start": start,
            "text": text,
            "sections": [
                {"start": section.start, "title": section.title}
                for section in one.sections
                if start <= section.start < end
            ],
            "passage": _bounds(passage) if passage else None,
            "marks": [
                [start + a, start + b] for a, b in marks(text, query_words(asked.query or ""))
            ],
        }

    def near(self, asked: Near, visitor: Filter | None) -> Json:
        """Return the documents that are closest to one."""
        kb = self._seen(visitor)
        one = self._fetched(kb, asked.id)
        vector = direction(np.array([window.vector for window in one.windows], np.float32))
        where = parse(dict(asked.where))
        found = kb.store.dense(vector, asked.k + 1, where, exact=False)
        if where is not None and len(found) <= asked.k:
            found = kb.store.dense(vector, asked.k + 1, where, exact=True)
        ranking = [(name, score) for name, score in found if name != one.id][: asked.k]
        documents = kb.store.fetch([name for name, _ in ranking])
        hits = [
            _neighbour(rank, documents[name], score, vector)
            for rank, (name, score) in enumerate(ranking, 1)
            if name in documents
        ]
        return {"kb": self.name, "id": one.id, "title": one.title, "hits": hits}

    def facets(self, asked: Limited, visitor: Filter | None) -> Json:
        """Return the values that metadata has, and how many documents fit each."""
        kb = self._seen(visitor)
        catalogue = self._catalogue(kb)
        facets = catalogue.facets(asked.where)
        where = parse(dict(asked.where))
        return {
            "kb": self.name,
            "documents": kb.store.count(where),
            "counted": len(catalogue),
            "total": catalogue.total,
            "facets": [_facet(asdict(one)) for one in facets],
        }

    def map(self, asked: Limited, visitor: Filter | None) -> Json:
        """Return where documents lie, and which of them fit."""
        kb = self._seen(visitor)
        atlas = self._maps.of(_key(kb), lambda: draw(kb.store))
        fitting = None
        if asked.where:
            catalogue = self._catalogue(kb)
            inside = catalogue.fitting(parse(dict(asked.where)))
            places = [catalogue.places.get(name) for name in atlas.ids]
            fitting = [i for i, at in enumerate(places) if at is not None and inside[at]]
        return {
            "kb": self.name,
            "total": atlas.total,
            "ids": atlas.ids,
            "titles": atlas.titles,
            "x": np.round(atlas.places[:, 0], 4).tolist(),
            "y": np.round(atlas.places[:, 1], 4).tolist(),
            "regions": [asdict(one) for one in atlas.regions],
            "labels": atlas.labels.tolist(),
            "fitting": fitting,
        }

    # --- parts -----------------------------------------------------------------------------------

    def _catalogue(self, kb: "KnowledgeBase") -> Catalogue:
        return self._catalogues.of(_key(kb), lambda: Catalogue.of(kb.store))

    def _fetched(self, kb: "KnowledgeBase", name: str) -> StoredDocument:
        one = kb.store.fetch([name]).get(name)
        if one is None:
            raise NotFoundError(f"there is no document {name!r:.200} in `{self.name}`")
        return one

    def _ranker(self) -> "Reranker":
        with self._reranker_lock:
            if self._reranker is None:
                if self._load_reranker is None:
                    raise InputError(
                        "rerank is true, and there is no reranker; start with --reranker MODEL"
                    )
                self._reranker = self._load_reranker()
            return self._reranker


def _key(kb: "KnowledgeBase") -> Hashable:
    """Return what a catalogue or map is made of: the rows that are seen, and their state."""
    state = revision(kb.store)
    where = repr(getattr(kb.store, "where", None))  # as text: 1 and true are equal, but not written
    return kb.identity, where, time.monotonic() // OLD if state is None else state


class _Kept(Generic[T]):
    """Things that are dear to make: each is made once, one at a time, and the last ones are kept.

    What is made for one filter is never given to another: the filter is in the key.
    """

    def __init__(self) -> None:
        self._held: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._held:
                self._held[key] = make()
            self._held.move_to_end(key)
            while len(self._held) > KEPT:
                self._held.popitem(last=False)
            return self._held[key]


def _hit(hit: Hit, query: str, *, secret: bool) -> Json:
    """Return a hit for a client; secret: BM25 scores tell of words in documents that are hidden."""
    found: Json = {
        "rank": hit.rank,
        "id": hit.id,
        "title": hit.title,
        "title_marks": [list(mark) for mark in marks(hit.title, query_words(query))],
        "score": None if secret else hit.score,
        "rerank": hit.rerank,
        "legs": {name: _leg(name, leg, secret=secret) for name, leg in hit.legs.items()},
        "passage": _passage(hit.passage),
        "source": hit.source,
        "line": hit.line,
        "metadata": dict(hit.metadata),
        "duplicates": list(hit.duplicates),
    }
    return found | _confidence(hit)


def _leg(name: str, leg: LegScore, *, secret: bool) -> Json:
    return {"rank": leg.rank, "score": None if secret and name == "lexical" else leg.score}


def _neighbour(rank: int, one: StoredDocument, score: float, vector: Floats) -> Json:
    passage = replace(best_passage(one, Asked("", vector)), marks=())
    return {
        "rank": rank,
        "id": one.id,
        "title": one.title,
        "similarity": score,
        "passage": _passage(passage),
        "source": one.source,
        "line": one.line,
        "metadata": dict(one.metadata),
    }


def _passage(passage: Any) -> Json:
    return {
        "start": passage.start,
        "end": passage.end,
        "text": passage.text[:SHOWN],
        "heading": passage.heading,
        "score": passage.score,
        "marks": [[a, b] for a, b in passage.marks if b <= SHOWN],
    }


def _bounds(passage: Any) -> Json:
    return {"start": passage.start, "end": passage.end, "heading": passage.heading}


def _confidence(of: Hit | Answer) -> Json:
    """Return the confidence of a hit or an answer, where the index is calibrated."""
    return {} if of.confidence is None else {"confidence": of.confidence}


def _facet(found: Json) -> Json:
    return {
        "field": found["field"],
        "kind": found["kind"],
        "documents": found["documents"],
        "values": [{"value": value, "documents": count} for value, count in found["values"]],
        "others": found["others"],
        "low": found["low"],
        "high": found["high"],
    }


def _part(length: int, at: int) -> tuple[int, int]:
    """Return the part of a text that is sent, with a character inside."""
    if length <= PART:
        return 0, length
    start = max(0, min(at - PART // 4, length - PART))
    return start, start + PART


def _public(model: str) -> str:
    """Return the name of a model; of a folder of this machine only its last part."""
    looks_local = model.startswith(("/", ".", "~")) or os.path.isdir(model)
    return os.path.basename(model.rstrip("/")) if looks_local else model


def names(desks: Sequence[Desk]) -> Mapping[str, Desk]:
    """Return desks by name; InputError where two have the same."""
    found: dict[str, Desk] = {}
    for one in desks:
        if one.name in found:
            raise InputError(f"two knowledge bases are called `{one.name}`; name one: NAME=KB")
        found[one.name] = one
    return found
