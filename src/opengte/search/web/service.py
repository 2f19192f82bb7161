"""Implements the search API for one knowledge base, with row-level access control."""

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from msgspec import UNSET

from opengte.errors import InputError, NotFoundError
from opengte.search.analysis.facets import Facet, FacetIndex
from opengte.search.analysis.map import DocumentMap, draw_map
from opengte.search.filters import Filter, all_of, parse_filter
from opengte.search.index import Index
from opengte.search.maintenance.status import file_problems, group_by_reason
from opengte.search.retrieval.search import (
    EncodedQuery,
    Passage,
    SearchHit,
    SearchOptions,
    best_passage,
    content_stems,
    dense_leg,
    highlight,
)
from opengte.search.stores.base import StoredDocument
from opengte.search.stores.listing import mean_direction, store_revision
from opengte.search.web import schemas
from opengte.types import Floats

if TYPE_CHECKING:
    from opengte.encoder import LateInteraction, Reranker
    from opengte.search.kb import KnowledgeBase

T = TypeVar("T")

PASSAGE_CHARACTERS = 4_000  # of a passage that are sent
DOCUMENT_CHARACTERS = 200_000  # of a document that are sent at once
PLACES = 200  # files of one reason that are sent
CACHED = 16  # facet indexes, maps and lists of problems, each
REFRESH_SECONDS = 1.0  # between checks whether the index was migrated to another model
OLD_SECONDS = 30.0  # age at which a cached value is computed again if a store has no revisions


class SearchService:
    """A knowledge base under a name, limited to the documents that match `where`.

    Every method takes the filter of its visitor, which limits the documents further. A document
    outside is treated like one that does not exist. Safe to use from several threads.
    """

    def __init__(
        self,
        name: str,
        kb: "KnowledgeBase",
        where: Filter | None = None,
        load_reranker: "Callable[[], Reranker | LateInteraction] | None" = None,
    ) -> None:
        self.name = name
        self._kb, self._refreshed = kb, -math.inf
        self._where = where
        self._load_reranker = load_reranker
        self._loaded_reranker: Reranker | LateInteraction | None = None
        self._reranker_lock = threading.Lock()
        self._facets: _Cache[FacetIndex] = _Cache()
        self._maps: _Cache[DocumentMap] = _Cache()
        self._problems: _Cache[list[schemas.ProblemGroupResponse]] = _Cache()

    def warm(self) -> None:
        """Load the model, so that the first query does not wait for it."""
        _ = self._kb.encoder

    def _visible(self, visitor: Filter | None) -> "KnowledgeBase":
        """Return the documents that a visitor may see."""
        if time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self._kb.latest()
            self._refreshed = time.monotonic()
        return self._kb.limited(all_of(self._where, visitor))

    # --- one method for each route ----------------------------------------------------------------

    def about(self, visitor: Filter | None) -> schemas.KnowledgeBaseStatus:
        """Return what there is to know before the first query."""
        index = self._visible(visitor).current
        sparse = ["sparse"] if "sparse" in index.encoder.card.outputs else []
        return schemas.KnowledgeBaseStatus(
            name=self.name,
            documents=index.store.count(),
            model=public_name(index.identity.model),
            legs=["dense", *sparse, "lexical", *(["late"] if index.settings.get("late") else [])],
            reranker=self._load_reranker is not None,
            language=index.settings.get("language"),
        )

    def tokens(self, text: str) -> int:
        """Return how many tokens of a query are read; the end of a very long one is not."""
        encoder = self._kb.encoder
        read = encoder.tokenizer.part(text, encoder.card.max_length)
        return int(encoder.tokenizer.count([read])[0])

    def search(
        self, request: schemas.SearchRequest, visitor: Filter | None
    ) -> schemas.SearchResponse:
        """Answer a query."""
        kb = self._visible(visitor)
        result = kb.search(
            request.query,
            request.k,
            where=dict(request.where),
            reranker=self._reranker() if request.rerank else None,
            **request.options(),
        )
        secret = not getattr(kb.store, "reveals_word_statistics", True)
        calibration = None if result.confidence is None else kb.calibration
        return schemas.SearchResponse(
            kb=self.name,
            query=request.query,
            hits=[_hit(hit, request.query, secret=secret) for hit in result.hits],
            candidates=dict(result.candidates),
            milliseconds={k: round(1000 * v, 2) for k, v in result.seconds.items()},
            underfilled=result.underfilled,
            notes=list(result.notes),
            threshold=UNSET if calibration is None else calibration.accuracy.threshold,
            confidence=UNSET if result.confidence is None else result.confidence,
        )

    def document(
        self, request: schemas.DocumentRequest, visitor: Filter | None
    ) -> schemas.DocumentResponse:
        """Return a document, or a part of a long one, with the passage that answers a query."""
        index = self._visible(visitor).current
        document = self._fetch(index, request.id)
        passage = None
        if request.query is not None:
            passage = best_passage(document, index.encode_query(request.query))
        wanted = request.at if request.at is not None else passage.start if passage else 0
        start, end = _part(len(document.text), wanted)
        text = document.text[start:end]
        return schemas.DocumentResponse(
            kb=self.name,
            id=document.id,
            title=document.title,
            source=document.source,
            line=document.line,
            metadata=dict(document.metadata),
            warnings=list(document.warnings),
            truncated=document.truncated,
            indexed=document.indexed,
            windows=len(document.windows),
            tokens=sum(window.tokens for window in document.windows),
            characters=len(document.text),
            start=start,
            text=text,
            sections=[
                schemas.SectionResponse(section.start, section.title)
                for section in document.sections
                if start <= section.start < end
            ],
            passage=schemas.PassageBounds(passage.start, passage.end, passage.heading)
            if passage
            else None,
            marks=[
                [start + a, start + b]
                for a, b in highlight(text, content_stems(request.query or ""))
            ],
        )

    def near(self, request: schemas.NearRequest, visitor: Filter | None) -> schemas.NearResponse:
        """Return the documents whose vectors are closest to that of one."""
        index = self._visible(visitor).current
        document = self._fetch(index, request.id)
        vector = mean_direction(
            np.array([window.vector for window in document.windows], np.float32)
        )
        options = SearchOptions(where=index.filter(dict(request.where)))
        found, _ = dense_leg(index.store, vector, request.k + 1, options)
        ranking = [(name, score) for name, score in found if name != document.id][: request.k]
        documents = index.store.fetch([name for name, _ in ranking])
        hits = [
            _neighbour(rank, documents[name], score, vector)
            for rank, (name, score) in enumerate(ranking, 1)
            if name in documents
        ]
        return schemas.NearResponse(self.name, document.id, document.title, hits)

    def facets(
        self, request: schemas.FilterRequest, visitor: Filter | None
    ) -> schemas.FacetsResponse:
        """Return the values that metadata has, and how many documents match each."""
        index = self._visible(visitor).current
        facets = self._facet_index(index)
        found = facets.facets(request.where)
        return schemas.FacetsResponse(
            kb=self.name,
            documents=index.store.count(index.filter(dict(request.where))),
            counted=len(facets),
            total=facets.total,
            facets=[_facet(one) for one in found],
        )

    def map(self, request: schemas.FilterRequest, visitor: Filter | None) -> schemas.MapResponse:
        """Return where documents lie on the map, and which of them match."""
        index = self._visible(visitor).current
        drawn = self._maps.get(_key(index), lambda: draw_map(index.store))
        fitting = None
        if request.where:
            facets = self._facet_index(index)
            matching = facets.fitting(parse_filter(dict(request.where)))
            places = [facets.places.get(name) for name in drawn.ids]
            fitting = [i for i, at in enumerate(places) if at is not None and matching[at]]
        return schemas.MapResponse(
            kb=self.name,
            total=drawn.total,
            ids=drawn.ids,
            titles=drawn.titles,
            x=np.round(drawn.places[:, 0], 4).tolist(),
            y=np.round(drawn.places[:, 1], 4).tolist(),
            regions=[schemas.RegionResponse(**vars(one)) for one in drawn.regions],
            labels=drawn.labels.tolist(),
            fitting=fitting,
        )

    def problems(self, visitor: Filter | None) -> schemas.ProblemsResponse:
        """Return files that failed, were skipped or are doubtful; nothing for a limited visitor."""
        index = self._visible(visitor).current
        groups = self._problems.get(
            (_key(index), time.monotonic() // OLD_SECONDS),
            lambda: [
                schemas.ProblemGroupResponse(
                    one.kind, one.reason, len(one.places), one.places[:PLACES]
                )
                for one in group_by_reason(file_problems(index.store))
            ],
        )
        return schemas.ProblemsResponse(self.name, groups)

    # --- parts -----------------------------------------------------------------------------------

    def _facet_index(self, index: Index) -> FacetIndex:
        return self._facets.get(_key(index), lambda: FacetIndex.of(index.store))

    def _fetch(self, index: Index, name: str) -> StoredDocument:
        document = index.store.fetch([name]).get(name)
        if document is None:
            raise NotFoundError(f"there is no document {name!r:.200} in `{self.name}`")
        return document

    def _reranker(self) -> "Reranker | LateInteraction":
        with self._reranker_lock:
            if self._loaded_reranker is None:
                if self._load_reranker is None:
                    raise InputError(
                        "rerank is true, and there is no reranker; start with --reranker MODEL"
                    )
                self._loaded_reranker = self._load_reranker()
            return self._loaded_reranker


def _key(index: Index) -> Hashable:
    """Return what facets and maps depend on: the model, the documents seen, and their state."""
    state = store_revision(index.store)
    # the filter as text: 1 and true are equal, but documents tell them apart
    where = repr(getattr(index.store, "where", None))
    return index.identity, where, time.monotonic() // OLD_SECONDS if state is None else state


class _Cache(Generic[T]):
    """The last values that were expensive to compute, each computed once and one at a time.

    The filter is in the key: what is computed for one caller is never given to another.
    """

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._values:
                self._values[key] = compute()
            self._values.move_to_end(key)
            while len(self._values) > CACHED:
                self._values.popitem(last=False)
            return self._values[key]


def _hit(hit: SearchHit, query: str, *, secret: bool) -> schemas.HitResponse:
    """Return a hit for a client; secret: BM25 scores reveal words of hidden documents."""
    return schemas.HitResponse(
        rank=hit.rank,
        id=hit.id,
        title=hit.title,
        title_marks=[list(mark) for mark in highlight(hit.title, content_stems(query))],
        score=None if secret else hit.score,
        rerank=hit.rerank,
        legs={
            name: schemas.LegResponse(leg.rank, None if secret and name == "lexical" else leg.score)
            for name, leg in hit.legs.items()
        },
        passage=_passage(hit.passage),
        source=hit.source,
        line=hit.line,
        metadata=dict(hit.metadata),
        duplicates=list(hit.duplicates),
        confidence=UNSET if hit.confidence is None else hit.confidence,
    )


def _neighbour(
    rank: int, document: StoredDocument, score: float, vector: Floats
) -> schemas.NeighbourResponse:
    return schemas.NeighbourResponse(
        rank=rank,
        id=document.id,
        title=document.title,
        similarity=score,
        passage=_passage(replace(best_passage(document, EncodedQuery("", vector)), marks=())),
        source=document.source,
        line=document.line,
        metadata=dict(document.metadata),
    )


def _passage(passage: Passage) -> schemas.PassageResponse:
    return schemas.PassageResponse(
        start=passage.start,
        end=passage.end,
        text=passage.text[:PASSAGE_CHARACTERS],
        heading=passage.heading,
        score=passage.score,
        marks=[[a, b] for a, b in passage.marks if b <= PASSAGE_CHARACTERS],
    )


def _facet(facet: Facet) -> schemas.FacetResponse:
    return schemas.FacetResponse(
        field=facet.field,
        kind=facet.kind,
        documents=facet.documents,
        values=[schemas.ValueCount(value, count) for value, count in facet.values],
        others=facet.others,
        low=facet.low,
        high=facet.high,
    )


def _part(length: int, at: int) -> tuple[int, int]:
    """Return which characters of a text are sent, so that one of them is at `at`."""
    if length <= DOCUMENT_CHARACTERS:
        return 0, length
    start = max(0, min(at - DOCUMENT_CHARACTERS // 4, length - DOCUMENT_CHARACTERS))
    return start, start + DOCUMENT_CHARACTERS


def public_name(model: str) -> str:
    """Return the name of a model; for a folder on this machine only its last part."""
    looks_local = model.startswith(("/", ".", "~")) or os.path.isdir(model)
    return os.path.basename(model.rstrip("/")) if looks_local else model


def services_by_name(services: Sequence[SearchService]) -> Mapping[str, SearchService]:
    """Return services by name; InputError if two have the same name."""
    found: dict[str, SearchService] = {}
    for service in services:
        if service.name in found:
            raise InputError(f"two knowledge bases are called `{service.name}`; name one: NAME=KB")
        found[service.name] = service
    return found
