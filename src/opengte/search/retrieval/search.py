"""Hybrid search: retrievers (legs), fusion, best passages, reranking and MMR.

A leg is one retriever: dense vectors, learned sparse weights, or BM25 (lexical). The leg of late
interaction scores what the others found, and is fused with them.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from opengte.embedding_ops import l2_normalise
from opengte.errors import InputError
from opengte.search.filters import Filter
from opengte.search.ingest.windows import heading_at
from opengte.search.minhash import first_near_duplicate
from opengte.search.parse.base import Scalar
from opengte.search.retrieval.fusion import Fusion, fuse
from opengte.search.retrieval.late import LatePassage, LateQuery, one_of
from opengte.search.retrieval.mmr import mmr
from opengte.search.segmentation import script_terms
from opengte.search.stores.base import ScoredIds, SparseVector, Store, StoredDocument
from opengte.search.stores.listing import fetch_for_display
from opengte.types import Floats

if TYPE_CHECKING:
    from opengte.encoder import LateInteraction, Reranker

Leg = Literal["dense", "sparse", "lexical", "late"]
LEGS: tuple[Leg, ...] = ("dense", "sparse", "lexical")  # that find documents
ALL_LEGS: tuple[Leg, ...] = (*LEGS, "late")
# documents of each leg that are fused: what comes late weighs little by its rank, but the mean and
# the spread of its scores count in the other
DEPTH = {"rrf": 100, "weighted": 200}
MOST_LEGS = 32  # that wait for their stores at the same time, of all searches of a process
RERANK_DEPTH = 50  # documents that a reranker reads
MMR_CANDIDATES = 5  # candidates of MMR for each result
WORDS = re.compile(r"\w+")
SHARED = 0.2  # what sharing all words of the question is worth, beside a cosine: a tie-breaker
SHORT_WORD = 3  # letters from which a word of the query is marked
_LEGS = ThreadPoolExecutor(MOST_LEGS, thread_name_prefix="leg of a search")


@dataclass(frozen=True)
class EncodedQuery:
    """A query as the legs take it: its text, its vector (d,) and its sparse weights."""

    text: str
    vector: Floats
    sparse: SparseVector = field(default_factory=dict)
    late: LateQuery | None = None
    late_truncated: bool = False  # the late model takes fewer tokens

    @cached_property
    def words(self) -> frozenset[str]:
        """The stems of its content words."""
        return content_stems(self.text)


@dataclass(frozen=True)
class SearchOptions:
    """How to search; legs None: all that the index has."""

    k: int = 10
    where: Filter | None = None
    legs: tuple[Leg, ...] | None = None
    fusion: Fusion = Fusion()
    depth: int | None = None  # documents of each leg that are fused; None: see DEPTH
    exact: bool = False
    diversity: float = 0.0  # of MMR, 0 to 1
    collapse: bool = True  # near-duplicates into the best of them
    reranked: int = RERANK_DEPTH

    def __post_init__(self) -> None:
        """Check what came from a caller."""
        if self.k < 1 or self.candidates < 1 or self.reranked < 1:
            raise InputError(
                f"k is {self.k}, depth {self.candidates} and reranked {self.reranked}: expected at "
                "least 1 of each"
            )
        if not 0.0 <= self.diversity <= 1.0:
            raise InputError(f"diversity is {self.diversity}, expected 0 to 1")
        unknown = [leg for leg in self.legs or () if leg not in ALL_LEGS]
        if unknown or self.legs == ():
            raise InputError(f"legs are {self.legs!r}, expected some of {', '.join(ALL_LEGS)}")
        if self.legs == ("late",):
            raise InputError("legs are late alone, which scores what another leg found; add one")

    @property
    def candidates(self) -> int:
        """Documents of each leg that are fused."""
        return DEPTH[self.fusion.method] if self.depth is None else self.depth


@dataclass(frozen=True)
class LegScore:
    """The rank (from 1) and the score that a leg gave a document."""

    rank: int
    score: float


@dataclass(frozen=True)
class Passage:
    """The part of a document that answers best: characters of its text, its heading, and marks.

    marks are (from, to) within the passage: words that it shares with the question.
    """

    start: int
    end: int
    text: str
    heading: str
    score: float | None
    marks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class SearchHit:
    """One document of a result; its score orders hits and has no other meaning."""

    rank: int
    id: str
    score: float
    legs: Mapping[str, LegScore]
    passage: Passage
    title: str
    source: str
    line: int | None
    metadata: Mapping[str, Scalar]
    rerank: float | None = None
    duplicates: tuple[str, ...] = ()
    confidence: float | None = None  # that this answers; of an index that was calibrated


@dataclass(frozen=True)
class ScoreSpread:
    """The scores of all candidates of a leg: mean, standard deviation, least."""

    mean: float
    deviation: float
    least: float


@dataclass(frozen=True)
class SearchResult:
    """The hits, best first, the number of candidates of each leg, and the seconds of each step.

    The legs search at the same time, so their seconds do not add up. underfilled: the approximate
    search returned fewer documents than match the filter, and was repeated exactly. confidence is
    the probability that an answer is among the hits, if the index is calibrated.
    """

    hits: tuple[SearchHit, ...]
    candidates: Mapping[str, int]
    seconds: Mapping[str, float]
    underfilled: bool = False
    notes: tuple[str, ...] = ()
    spreads: Mapping[str, ScoreSpread] = field(default_factory=dict)
    confidence: float | None = None


def search(
    store: Store,
    asked: EncodedQuery,
    options: SearchOptions,
    reranker: "Reranker | LateInteraction | None" = None,
) -> SearchResult:
    """Return the documents that answer a query best."""
    clock = StepTimer()
    rankings, underfilled = run_legs(store, asked, options, clock)
    fused = fuse(rankings, options.fusion)
    late = late_leg(store, fused, asked, options, clock)
    if late is not None:
        rankings["late"] = late[0]
        fused = fuse(rankings, options.fusion)
    wanted = options.k * (MMR_CANDIDATES if options.diversity else 1)
    wanted = max(wanted, options.reranked if reranker else 0)
    with clock("fetch"):
        documents, copies = _distinct(store, fused, wanted, collapse=options.collapse)
    scores, ranks = dict(fused), {leg: _ranked(ranking) for leg, ranking in rankings.items()}
    best = late[1] if late else {}
    hits = [
        _hit(one, scores[one.id], ranks, asked, tuple(copies[one.id]), best.get(one.id))
        for one in documents
    ]
    if reranker and hits:
        with clock("rerank"):
            hits = _reranked(hits, documents, asked, reranker)
    if options.diversity:
        hits = _diverse(hits, {one.id: one for one in documents}, options)
    hits = [replace(hit, rank=rank) for rank, hit in enumerate(hits[: options.k], 1)]
    counts = {leg: len(ranking) for leg, ranking in rankings.items()}
    spreads = {leg: _spread(ranking) for leg, ranking in rankings.items() if ranking}
    notes = () if late is None or not asked.late_truncated else (LATE_TRUNCATED,)
    return SearchResult(tuple(hits), counts, clock.seconds, underfilled, notes, spreads)


LATE_TRUNCATED = (
    "the query is longer than the late-interaction model takes: its end does not count in that leg"
)


def late_leg(
    store: Store,
    fused: Sequence[tuple[str, float]],
    asked: EncodedQuery,
    options: SearchOptions,
    clock: "StepTimer",
) -> tuple[ScoredIds, dict[str, LatePassage]] | None:
    """Score the best candidates by MaxSim; None where the index has no token vectors."""
    chosen = options.legs is None or "late" in options.legs
    if asked.late is None or not chosen or options.fusion.weight("late") == 0:
        return None
    with clock("late"):
        names = [name for name, _ in fused[: max(options.k, options.reranked)]]
        return asked.late.rank(list(fetch_for_display(store, names).values()))


class StepTimer:
    """Seconds that named steps took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._since = "", 0.0

    def __call__(self, name: str) -> "StepTimer":
        """Name the step that begins."""
        self._name = name
        return self

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self._name] = time.perf_counter() - self._since


def run_legs(
    store: Store, asked: EncodedQuery, options: SearchOptions, clock: StepTimer
) -> tuple[dict[str, ScoredIds], bool]:
    """Return the ranking of each leg, and whether a filtered search had to be repeated exactly.

    The legs search in parallel: each waits for its store more than it computes.
    """
    depth = max(options.candidates, options.k)
    work: dict[str, Callable[[], tuple[ScoredIds, bool]]] = {
        "dense": lambda: dense_leg(store, asked.vector, depth, options),
        "sparse": lambda: (store.sparse(asked.sparse, depth, options.where), False),
        "lexical": lambda: (store.lexical(asked.text, depth, options.where), False),
    }
    legs = [leg for leg in options.legs or LEGS if leg in LEGS and options.fusion.weight(leg) > 0]
    if not asked.sparse:
        legs = [leg for leg in legs if leg != "sparse"]
    begun = [_LEGS.submit(_timed, work[leg]) for leg in legs[1:]]
    found = [_timed(work[leg]) for leg in legs[:1]] + [one.result() for one in begun]
    for leg, (_, seconds) in zip(legs, found, strict=True):
        clock.seconds[leg] = seconds
    rankings: dict[str, ScoredIds] = {
        leg: ranking for leg, ((ranking, _), _) in zip(legs, found, strict=True)
    }
    return rankings, any(again for (_, again), _ in found)


def _timed(work: Callable[[], tuple[ScoredIds, bool]]) -> tuple[tuple[ScoredIds, bool], float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def dense_leg(
    store: Store, vector: Floats, depth: int, options: SearchOptions
) -> tuple[ScoredIds, bool]:
    """Search by vector; exactly where a filter left the fast search with too few."""
    found = store.dense(vector, depth, options.where, exact=options.exact)
    if options.exact or options.where is None or len(found) >= depth:
        return found, False
    if len(found) >= min(depth, store.count(options.where)):
        return found, False
    return store.dense(vector, depth, options.where, exact=True), True


def _spread(ranking: ScoredIds) -> ScoreSpread:
    scores = np.array([score for _, score in ranking])
    return ScoreSpread(float(scores.mean()), float(scores.std()), float(scores.min()))


def _ranked(ranking: ScoredIds) -> dict[str, LegScore]:
    return {name: LegScore(rank, score) for rank, (name, score) in enumerate(ranking, 1)}


def _distinct(
    store: Store, fused: Sequence[tuple[str, float]], wanted: int, *, collapse: bool
) -> tuple[list[StoredDocument], dict[str, list[str]]]:
    """Fetch the best documents that are not near-duplicates of better ones."""
    kept: list[StoredDocument] = []
    copies: dict[str, list[str]] = {}
    start = 0
    while len(kept) < wanted and start < len(fused):
        names = [name for name, _ in fused[start : start + wanted]]
        found = fetch_for_display(store, names)
        for name in names:
            one = found.get(name)
            if one is None or len(kept) == wanted:  # removed by another process meanwhile
                continue
            same = (
                first_near_duplicate(one.signature, [two.signature for two in kept])
                if collapse
                else None
            )
            if same is not None:
                copies[kept[same].id].append(one.id)
            else:
                kept.append(one)
                copies[one.id] = []
        start += wanted
    return kept, copies


def _hit(
    one: StoredDocument,
    score: float,
    ranks: Mapping[str, Mapping[str, LegScore]],
    asked: EncodedQuery,
    copies: tuple[str, ...],
    late: LatePassage | None,
) -> SearchHit:
    return SearchHit(
        rank=0,
        id=one.id,
        score=score,
        legs={leg: places[one.id] for leg, places in ranks.items() if one.id in places},
        passage=best_passage(one, asked, late),
        title=one.title,
        source=one.source,
        line=one.line,
        metadata=one.metadata,
        duplicates=copies,
    )


def best_passage(
    one: StoredDocument, asked: EncodedQuery, late: LatePassage | None = None
) -> Passage:
    """Return the span that is closest to the question, by its vector and the words they share.

    late, the span with the best MaxSim, is it where there is one.
    """
    if late is not None and asked.late is not None:
        return _late_passage(one, asked, asked.late, late)
    best = _best_span(one, asked)
    if best is None:  # no spans are kept: the window that is closest
        window = max(one.windows, key=lambda window: float(window.vector @ asked.vector))
        best = float(window.vector @ asked.vector), window.start, window.end
    score, start, end = best
    end = _with_body(one, start, end)
    text = one.text[start:end]
    return Passage(
        start, end, text, heading_at(one.sections, start), score, highlight(text, asked.words)
    )


def _late_passage(
    one: StoredDocument, asked: EncodedQuery, query: LateQuery, late: LatePassage
) -> Passage:
    """Return the passage with the best MaxSim; its marks are the words whose tokens matched."""
    window = one.windows[late.window]
    assert window.late is not None
    start, end = (int(x) for x in window.spans.bounds[late.place])
    vector = l2_normalise(window.spans.floats()[late.place])
    text = one.text[start:end]
    matched = query.marks(text, one_of(window.late, late.place))
    marks = highlight(text, asked.words) if matched is None else _whole_words(text, matched)
    heading = heading_at(one.sections, start)
    return Passage(start, end, text, heading, float(vector @ asked.vector), marks)


def _whole_words(text: str, spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return the words that tokens at these characters are part of, without stop words."""
    found = [
        match.span()
        for match in WORDS.finditer(text)
        if match[0].lower() not in STOPWORDS
        and any(start < match.end() and match.start() < end for start, end in spans)
    ]
    return _joined(found)


def _best_span(one: StoredDocument, asked: EncodedQuery) -> tuple[float, int, int] | None:
    """Return the score and the bounds of the best span, the first of equals."""
    spans = [
        (score, *bounds)
        for window in one.windows
        if len(window.spans.bounds)
        for score, bounds in zip(
            (l2_normalise(window.spans.floats()) @ asked.vector).tolist(),
            window.spans.bounds.tolist(),
            strict=True,
        )
    ]
    top = max((score for score, _, _ in spans), default=0.0)
    near = [span for span in spans if span[0] >= top - SHARED]  # no other can be the best
    if len(near) <= 1:
        return near[0] if near else None
    return max(near, key=lambda span: span[0] + SHARED * _shared(one.text, span, asked.words))


def _shared(text: str, span: tuple[float, int, int], words: frozenset[str]) -> float:
    """Return the share of the question's words that a span has."""
    return len(words & content_stems(text[span[1] : span[2]])) / max(1, len(words))


def _with_body(one: StoredDocument, start: int, end: int) -> int:
    """Return where a passage ends that says more than its heading."""
    if one.text[start:end].strip("#=~- \t\r\n") != heading_at(one.sections, start):
        return end
    bounds = [bound for window in one.windows for bound in window.spans.bounds.tolist()]
    following = min((last for first, last in bounds if first >= end), default=end)
    return int(following)


def content_stems(text: str) -> frozenset[str]:
    """Return the stems of the content words of a text."""
    found = (word.lower() for word in WORDS.findall(text))
    stems = {_stem(word) for word in found if len(word) >= SHORT_WORD or not word.isascii()}
    return frozenset(stems.union(term for _, _, term in script_terms(text)))


def highlight(text: str, words: frozenset[str]) -> tuple[tuple[int, int], ...]:
    """Return where a text has words of the query, given as `query_words`, in other forms too."""
    wanted = words - STOPWORDS
    found = [match.span() for match in WORDS.finditer(text) if _stem(match[0].lower()) in wanted]
    longest = max((len(term) for _, _, term in script_terms(" ".join(wanted))), default=0)
    found += (
        (start, end)
        for start, end, term in script_terms(text)
        if term in wanted and len(term) >= min(2, longest)
    )
    return _joined(sorted(found))


def _joined(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return sorted spans with those that overlap or touch as one."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return tuple(joined)


STOPWORDS = frozenset(
    "the and for are was were with that this from how what why when where who which does did can "
    "you your not but has have had will would should could into about than then there their its "
    "they them she her him his our all any some more most other such only also very just may must "
    "been being get one use used using".split()
)
_ENDINGS = ("ing", "ed", "es", "s")


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    """Return a word without an English ending; good enough to mark words, not to search them."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORT_WORD:
            return word[: -len(ending)]
    return word


def _reranked(
    hits: list[SearchHit],
    documents: Sequence[StoredDocument],
    asked: EncodedQuery,
    reranker: "Reranker | LateInteraction",
) -> list[SearchHit]:
    """Order hits by how a reranker reads their best passages; what it did not read comes after."""
    texts = {one.id: _around(one, hit.passage) for one, hit in zip(documents, hits, strict=True)}
    scores = reranker.score(asked.text, [texts[hit.id] for hit in hits])
    scored = [replace(hit, rerank=float(score)) for hit, score in zip(hits, scores, strict=True)]
    return sorted(scored, key=lambda hit: -float(hit.rerank or 0.0))


def _around(one: StoredDocument, passage: Passage, characters: int = 1500) -> str:
    """Return the title and the text around a passage, as much as a reranker reads."""
    missing = max(0, characters - (passage.end - passage.start)) // 2
    text = one.text[max(0, passage.start - missing) : passage.end + missing]
    return f"{one.title}\n\n{text}" if one.title else text


def _diverse(
    hits: list[SearchHit], documents: Mapping[str, StoredDocument], options: SearchOptions
) -> list[SearchHit]:
    relevance: Any = [hit.score if hit.rerank is None else hit.rerank for hit in hits]
    means = [np.mean([w.vector for w in documents[hit.id].windows], axis=0) for hit in hits]
    vectors = l2_normalise(np.array(means, dtype=np.float32))
    return [hits[i] for i in mmr(relevance, vectors, options.k, options.diversity)]
