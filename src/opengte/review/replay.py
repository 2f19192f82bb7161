"""Replay queries through a pipeline: the search of the index, with any part exchanged.

Legs are asked once for each way in which they can be asked, so that all that follows (fusion,
near-duplicates, the reranker, the threshold) costs little. Nothing is written.

Letters in shapes: n documents of the pool, d width.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from opengte.ranking_metrics import ndcg
from opengte.review.judgments import JudgedQuery
from opengte.review.pipeline import Pipeline, VectorPlan
from opengte.review.pool import Pool
from opengte.review.vectors import (
    PlannedEncoder,
    VectorMemo,
    WindowMatrix,
    embed_documents,
    matrix_of,
)
from opengte.review.words import WordIndex
from opengte.search.calibration import confidence
from opengte.search.filters import matches
from opengte.search.minhash import first_near_duplicate
from opengte.search.model_identity import ModelIdentity
from opengte.search.retrieval import search
from opengte.search.retrieval.fusion import fuse
from opengte.search.retrieval.search import LEGS, EncodedQuery, SearchOptions
from opengte.search.stores.base import ScoredIds, StoredDocument
from opengte.types import Floats

if TYPE_CHECKING:
    from opengte.encoder import Encoder, Reranker
    from opengte.search.stores.base import Store

CUT = 10  # results that count, or as many as are shown
Found = tuple[tuple[str, ...], ...]  # the results of a query, each with its near-duplicates


@dataclass(frozen=True, eq=False)
class Models:
    """The model of the index, and those that the user named, loaded when an arm needs them."""

    live: "Encoder"
    others: Mapping[str, Callable[[], "Encoder"]]
    rerankers: Mapping[str, Callable[[], "Reranker"]]


class Replay:
    """Answers queries as a pipeline would."""

    def __init__(
        self,
        store: "Store",
        settings: Mapping[str, Any],
        pool: Pool,
        models: Models,
        cache: VectorMemo | None = None,
    ) -> None:
        self.store, self.settings, self.pool, self.models = store, settings, pool, models
        self.vectors = VectorMemo() if cache is None else cache
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._identity = ModelIdentity.from_settings(settings["model"])
        self._loaded: dict[str, Any] = {}
        self._asked: dict[tuple[VectorPlan | None, str], EncodedQuery] = {}
        self._texts: dict[bytes, str] = {}
        self._legs: dict[Any, ScoredIds] = {}
        self._matrices: dict[Any, tuple[list[str], WindowMatrix]] = {}
        self._words: dict[Any, WordIndex] = {}
        self._found: dict[tuple[Pipeline, str], Found] = {}
        self._confidence: dict[tuple[Pipeline, str], float] = {}
        self._scores: dict[tuple[str, str, str], float] = {}
        self._outside: dict[str, StoredDocument] = {}

    # --- answers ---------------------------------------------------------------------------------

    def quality(self, pipeline: Pipeline, query: JudgedQuery) -> float:
        """Return nDCG@10 (at fewer results, if fewer are shown), with the pool's correction."""
        cut = min(CUT, pipeline.options.k)
        grades = {**(query.relevant or {}), **(query.absent or {})}
        if not grades:  # nothing answers: no answer is the right one
            return 0.0 if self.found(pipeline, query.text) else 1.0
        gains, rank = np.zeros(cut), 1.0
        for group in self.found(pipeline, query.text)[:cut]:
            place = int(round(rank)) - 1
            if place < cut:
                gains[place] = max(gains[place], *(grades.get(name, 0.0) for name in group))
            rank += self.pool.weight(group[0]) if pipeline.needs_replica else 1.0
        return float(ndcg(gains, list(grades.values()), cut))

    def succeeds(self, pipeline: Pipeline, query: JudgedQuery) -> bool:
        """Return whether a right answer is among the results."""
        return self.quality(pipeline, query) > 0

    def found(self, pipeline: Pipeline, text: str) -> Found:
        """Return the results of a query, best first; none where the answer is not sure enough."""
        key = pipeline, text
        if key not in self._found:
            self._found[key] = self._answer(pipeline, text)
        return self._found[key]

    def _answer(self, pipeline: Pipeline, text: str) -> Found:
        if pipeline.threshold is not None:
            sure = self.confidence(pipeline, text)
            if sure < self.threshold(pipeline):
                return ()
        options = pipeline.options
        if pipeline.reranker is None and not options.diversity:
            return self._fused(pipeline, text)
        answer = search.search(
            cast("Store", _Facade(self, pipeline)),
            self.query(None, text),
            options,
            self._reranker(pipeline.reranker),
        )
        return tuple((hit.id, *hit.duplicates) for hit in answer.hits)

    def _fused(self, pipeline: Pipeline, text: str) -> Found:
        """Return what `search` would, without the passages: the best documents, copies apart."""
        options = pipeline.options
        fused = fuse(self.legs(pipeline, text), options.fusion)
        if not options.collapse:
            return tuple((name,) for name, _ in fused[: options.k])
        kept: list[list[str]] = []
        signatures: list[bytes] = []
        for start in range(0, len(fused), options.k):
            if len(kept) == options.k:
                break
            names = [name for name, _ in fused[start : start + options.k]]
            for name, one in self.documents(pipeline, names).items():
                if len(kept) == options.k:
                    break
                same = first_near_duplicate(one.signature, signatures)
                if same is not None:
                    kept[same].append(name)
                else:
                    kept.append([name])
                    signatures.append(one.signature)
        return tuple(map(tuple, kept))

    # --- confidence ------------------------------------------------------------------------------

    def threshold(self, pipeline: Pipeline) -> float:
        """Return the confidence from which an answer is shown."""
        if pipeline.threshold != "auto":
            return float(pipeline.threshold or 0.0)
        found = confidence.calibration_of(self.settings)
        return found.accuracy.threshold if found else 0.0

    def confidence(self, pipeline: Pipeline, text: str) -> float:
        """Return how sure the index's own answer is; 1 where it is not calibrated.

        It was learned for one way of searching, so other arms keep what the index itself says.
        """
        live = Pipeline(pipeline.options, reranker=pipeline.reranker)
        calibration = confidence.calibration_of(self.settings)
        reranker = self._reranker(pipeline.reranker)
        way = None if calibration is None else calibration.way
        if calibration is None or way is None:
            return 1.0
        if way != confidence.search_configuration(pipeline.options, reranker):
            live = Pipeline(_options_of(way, pipeline.options), reranker=pipeline.reranker)
        key = live, text
        if key not in self._confidence:
            wide = replace(live.options, k=max(live.options.k, confidence.EVIDENCE_HITS))
            answer = search.search(
                cast("Store", _Facade(self, live)), self.query(None, text), wide, reranker
            )
            found = confidence.with_confidence(answer, text, calibration)
            self._confidence[key] = found.confidence or 0.0
        return self._confidence[key]

    # --- legs ------------------------------------------------------------------------------------

    def legs(self, pipeline: Pipeline, text: str) -> dict[str, ScoredIds]:
        """Return the ranking of each leg that the pipeline uses."""
        options = pipeline.options
        depth = max(options.candidates, options.k)
        wanted = [leg for leg in options.legs or LEGS if options.fusion.weight(leg) > 0]
        if not self.query(None, text).sparse or pipeline.needs_replica:
            wanted = [leg for leg in wanted if leg != "sparse"]
        return {leg: self.leg(pipeline, leg, text, depth) for leg in wanted}

    def leg(self, pipeline: Pipeline, leg: str, text: str, depth: int) -> ScoredIds:
        """Return the ranking of one leg."""
        own = {"dense": pipeline.vectors, "lexical": pipeline.words, "sparse": None}[leg]
        exact = leg == "dense" and pipeline.options.exact
        ground = (pipeline.needs_replica, pipeline.sources, own, exact)
        key = (leg, text, depth, repr(pipeline.options.where), ground)
        if key not in self._legs:
            start = time.perf_counter()
            ask = self._replica_leg if pipeline.needs_replica else self._stored_leg
            self._legs[key] = ask(pipeline, leg, text, depth)
            name = f"exact {leg}" if exact and not pipeline.needs_replica else leg
            self.seconds[name].append(time.perf_counter() - start)
        return self._legs[key]

    def _stored_leg(self, pipeline: Pipeline, leg: str, text: str, depth: int) -> ScoredIds:
        asked, where = self.query(None, text), pipeline.options.where
        if leg == "dense":
            return search.dense_leg(self.store, asked.vector, depth, pipeline.options)[0]
        if leg == "sparse":
            return self.store.sparse(asked.sparse, depth, where)
        return self.store.lexical(text, depth, where)

    def _replica_leg(self, pipeline: Pipeline, leg: str, text: str, depth: int) -> ScoredIds:
        if leg == "dense":
            names, matrix = self._matrix(pipeline)
            scores = matrix.scores(self.query(pipeline.vectors, text).vector)
            usable = np.ones(len(names), bool)
        else:
            names, words = self.names(pipeline), self._word_index(pipeline)
            scores = words.scores(text)
            usable = scores > 0
        if pipeline.options.where is not None:
            usable &= self._fitting(pipeline, names)
        return top(names, scores, usable, depth)

    def _fitting(self, pipeline: Pipeline, names: Sequence[str]) -> npt.NDArray[np.bool_]:
        where, held = pipeline.options.where, self.pool.documents
        return np.array([name not in held or matches(where, held[name].metadata) for name in names])

    def names(self, pipeline: Pipeline) -> list[str]:
        """Return the ids of the documents that a replica holds."""
        return self.pool.names(sources=pipeline.sources)

    def _word_index(self, pipeline: Pipeline) -> WordIndex:
        language = pipeline.words.language if pipeline.words else self.settings["language"]
        key = language, pipeline.sources
        if key not in self._words:
            texts = [x[:2] for x in self.pool.texts(sources=pipeline.sources)]
            self._words[key] = WordIndex(texts, language, self.pool.terms)
        return self._words[key]

    def _matrix(self, pipeline: Pipeline) -> tuple[list[str], WindowMatrix]:
        key = pipeline.vectors, pipeline.sources
        if key not in self._matrices:
            names, windows = self.names(pipeline), self._windows(pipeline)
            kept = [(n, w) for n, w in zip(names, windows, strict=True) if w]
            self._matrices[key] = [n for n, _ in kept], matrix_of([w for _, w in kept])
        return self._matrices[key]

    def _windows(self, pipeline: Pipeline) -> list[Sequence[Any]]:
        span, window = self.settings["span_tokens"], self.settings["window_tokens"]
        if pipeline.vectors is not None:
            texts = self.pool.texts(sources=pipeline.sources)
            return list(embed_documents(self.encoder(pipeline.vectors), texts, span, window))
        changed = self.pool.differences.texts if pipeline.sources else {}
        made = embed_documents(self.encoder(None), list(changed.values()), span, window)
        fresh = dict(zip(changed, made, strict=True))
        held = self.pool.documents
        return [fresh[x] if x in fresh else held[x].windows for x in self.names(pipeline)]

    # --- models and documents --------------------------------------------------------------------

    def query(self, plan: VectorPlan | None, text: str) -> EncodedQuery:
        """Return a query as a plan encodes it."""
        key = plan, text
        if key not in self._asked:
            encoder = self.encoder(plan)
            given = plan.instruction if plan and plan.instruction is not None else None
            asked = self._identity.instruction if given is None else given
            if plan and plan.model and not encoder.card.instruction_template:
                asked = None
            start = time.perf_counter()
            found = encoder.embed([text], role="query", instruction=asked or None)
            name = plan.model if plan else ""
            self.seconds[f"embed {name}"].append(time.perf_counter() - start)
            assert found.dense is not None
            vector, sparse = found.dense[0], self._sparse(plan, text)
            if plan and plan.dimensions:
                vector = vector[: plan.dimensions] / np.linalg.norm(vector[: plan.dimensions])
            self._asked[key] = EncodedQuery(text, vector, sparse)
            if plan is None:
                self._texts[vector.tobytes()] = text
        return self._asked[key]

    def text_of(self, vector: Floats) -> str:
        """Return the query that a vector belongs to."""
        return self._texts[vector.tobytes()]

    def _sparse(self, plan: VectorPlan | None, text: str) -> Mapping[int, float]:
        live = self.models.live
        if plan is not None or "sparse" not in live.card.outputs:
            return {}
        found = live.embed(
            [text],
            role="query",
            instruction=self._identity.instruction,
            outputs=("sparse",),
            progress=False,
        )
        return found.sparse[0] if found.sparse else {}

    def encoder(self, plan: VectorPlan | None) -> PlannedEncoder:
        """Return the model of a plan; its texts are computed once."""
        plan = plan or VectorPlan()
        if plan.model and plan.model not in self._loaded:
            self._loaded[plan.model] = self.models.others[plan.model]()
        live = self._loaded[plan.model] if plan.model else self.models.live
        return PlannedEncoder(live, plan, self.vectors)

    def _reranker(self, name: str | None) -> Any:
        if name is None:
            return None
        if name not in self._loaded:
            self._loaded[name] = self.models.rerankers[name]()
        return _Reranker(self._loaded[name], name, self._scores, self.seconds)

    def documents(self, pipeline: Pipeline, names: Sequence[str]) -> dict[str, StoredDocument]:
        """Return documents by id, in the order of the names, as the pipeline has them."""
        held = self.pool.read(sources=pipeline.sources)
        unknown = [x for x in names if x not in held and x not in self._outside]
        if unknown:
            self._outside |= self.store.fetch(unknown)
        both = (held, self._outside)
        return {x: one for x in names if (one := both[0].get(x) or both[1].get(x)) is not None}


class _Facade:
    """A store that answers as a pipeline's legs do, for the search itself."""

    def __init__(self, replay: Replay, pipeline: Pipeline) -> None:
        self._replay, self._pipeline = replay, pipeline

    def dense(self, query: Floats, k: int, where: Any, *, exact: bool = False) -> ScoredIds:
        """Return the dense leg; the vector tells which query it is."""
        text = self._replay.text_of(query)
        return self._replay.leg(self._pipeline, "dense", text, k)

    def lexical(self, query: str, k: int, where: Any) -> ScoredIds:
        return self._replay.leg(self._pipeline, "lexical", query, k)

    def sparse(self, query: Any, k: int, where: Any) -> ScoredIds:
        return self._replay.store.sparse(query, k, where)

    def count(self, where: Any = None) -> int:
        return self._replay.store.count(where)

    def fetch(self, names: Sequence[str]) -> dict[str, StoredDocument]:
        return self._replay.documents(self._pipeline, names)


class _Reranker:
    """A reranker that reads each pair once."""

    def __init__(
        self,
        reranker: "Reranker",
        name: str,
        scores: dict[tuple[str, str, str], float],
        seconds: dict[str, list[float]],
    ) -> None:
        self._reranker, self._name, self._scores = reranker, name, scores
        self._seconds = seconds
        self.card = getattr(reranker, "card", None)
        self.former_fingerprint = getattr(reranker, "former_fingerprint", None)

    def score(self, text: str, passages: Sequence[str]) -> list[float]:
        fresh = [x for x in dict.fromkeys(passages) if (self._name, text, x) not in self._scores]
        if fresh:
            start = time.perf_counter()
            found = self._reranker.score(text, fresh)
            self._seconds[f"rerank {self._name}"].append((time.perf_counter() - start) / len(fresh))
            for one, score in zip(fresh, found, strict=True):
                self._scores[self._name, text, one] = float(score)
        return [self._scores[self._name, text, x] for x in passages]


def top(
    names: Sequence[str], scores: Floats, usable: npt.NDArray[np.bool_], depth: int
) -> ScoredIds:
    """Return the best documents with their scores, ties by name."""
    places = np.flatnonzero(usable)
    if len(places) > depth:
        least = np.partition(scores[places], -depth)[-depth]
        places = places[scores[places] >= least]
    found = [(names[i], float(scores[i])) for i in places.tolist()]
    return sorted(found, key=lambda one: (-one[1], one[0]))[:depth]


def _options_of(way: Mapping[str, Any], options: SearchOptions) -> SearchOptions:
    """Return the options with which an index was calibrated."""
    fusion = replace(options.fusion, method=way["fusion"], k=way["k"], weights=way["weights"])
    legs = tuple(way["legs"]) if way["legs"] else None
    return replace(
        options, legs=legs, fusion=fusion, depth=way["depth"], diversity=way["diversity"]
    )
