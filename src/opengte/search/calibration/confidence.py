"""Confidence of answers: calibrated probabilities from the scores of the legs.

There are two: that a hit answers the query (`SearchHit.confidence`), and that an answer is among
the hits at all (`SearchResult.confidence`). Both are logistic regressions on the same
features, learned by `calibrate`. Letters in shapes: h hits, f features, n examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from opengte.errors import InputError
from opengte.search.retrieval import search as query
from opengte.search.retrieval.search import EncodedQuery, SearchHit, SearchOptions, SearchResult
from opengte.search.stores.base import Store

if TYPE_CHECKING:
    from opengte.encoder import LateInteraction, Reranker

VERSION = 2  # of the features: a calibration of another one is not used
EVIDENCE_HITS = 10  # hits that evidence is taken from, however few are shown
FEATURES = (
    "dense",  # cosine of the document's best window
    "dense_z",  # the same in deviations from the other candidates
    "dense_margin",  # over the best other hit
    "lexical",  # BM25 for each word of the question
    "lexical_z",
    "lexical_margin",
    "sparse_z",
    "passage",  # cosine of the passage
    "words",  # share of the question's words that passage and title have
    "agreement",  # mean of 1 / rank over the legs
    "first",
    "length",  # words of the question
    "rerank",
    "rerank_margin",
)
MAXIMA = [FEATURES.index(name) for name in ("dense", "lexical", "words", "passage", "agreement")]

Values = npt.NDArray[np.float64]
MinConfidence = float | Literal["auto"] | None


@dataclass(frozen=True, eq=False)
class LogisticModel:
    """1 / (1 + exp(-(weights . (x - mean) / scale + bias))), each (f,) but the bias."""

    mean: Values
    scale: Values
    weights: Values
    bias: float

    def __call__(self, rows: Values) -> Values:
        """Return the probability (n,) of each row (n, f)."""
        return sigmoid((rows - self.mean) / self.scale @ self.weights + self.bias)

    def settings(self) -> dict[str, Any]:
        """Return a value for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "scale", "weights")}
        return {**arrays, "bias": self.bias}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "LogisticModel":
        """Return what `settings` made."""
        arrays = {name: np.array(settings[name]) for name in ("mean", "scale", "weights")}
        return cls(**arrays, bias=settings["bias"])


@dataclass(frozen=True)
class ProbabilityScores:
    """How good probabilities are on questions that were not learned from.

    brier is their mean squared error, always: that of the mean rate for everything; ece the
    expected calibration error in ten bins; auc the chance that a right one has more than a wrong
    one, None where only one kind is there.
    """

    brier: float
    always: float
    ece: float
    auc: float | None
    rate: float


@dataclass(frozen=True)
class CalibrationAccuracy:
    """The accuracy of a calibration on held-out folds.

    hit: a hit answers; there: an answer is among the hits. Below threshold a query counts as
    unanswered: `missed` is the share of answerable questions below it (false negatives), `passed`
    the share of unanswerable ones above it (false positives): of those that are about something
    else where there are such, `off_topic` of them. The two AUCs say how well answerable questions
    are told from those, and from those whose documents are hidden.
    """

    questions: int
    unanswerable: int
    hit: ProbabilityScores
    there: ProbabilityScores
    threshold: float
    missed: float
    passed: float
    off_topic: int = 0
    auc_off_topic: float | None = None
    auc_hidden: float | None = None


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was learned, from which questions, for which way of searching."""

    hit: LogisticModel
    there: LogisticModel
    accuracy: CalibrationAccuracy
    way: Mapping[str, Any]
    identity: Mapping[str, Any]
    learned_from: str  # labelled or generated
    made: float  # seconds since 1970

    def settings(self) -> dict[str, Any]:
        """Return a value for JSON."""
        return {
            "version": VERSION,
            "hit": self.hit.settings(),
            "there": self.there.settings(),
            "accuracy": asdict(self.accuracy),
            "way": dict(self.way),
            "identity": dict(self.identity),
            "learned_from": self.learned_from,
            "made": self.made,
        }


def calibration_of(settings: Mapping[str, Any]) -> Calibration | None:
    """Return the calibration in the settings of an index; None if it has none that holds.

    One that was learned with another model, or by another version of the features, does not.
    """
    kept = settings.get("calibration")
    if kept is None or kept["version"] != VERSION or kept["identity"] != scoring_settings(settings):
        return None
    accuracy = dict(kept["accuracy"])
    for name in ("hit", "there"):
        accuracy[name] = ProbabilityScores(**accuracy[name])
    return Calibration(
        LogisticModel.from_settings(kept["hit"]),
        LogisticModel.from_settings(kept["there"]),
        CalibrationAccuracy(**accuracy),
        kept["way"],
        kept["identity"],
        kept["learned_from"],
        kept["made"],
    )


def scoring_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of an index that change scores."""
    names = ["model", "first_pass", "passages", "span_tokens", "window_tokens", "language"]
    names += ["late"] * bool(settings.get("late"))
    return {name: settings.get(name) for name in names}


def search_configuration(
    options: SearchOptions, reranker: "Reranker | LateInteraction | None", *, former: bool = False
) -> dict[str, Any]:
    """Return what of a search decides which scores its hits have.

    former names the reranker by the fingerprint that earlier versions gave it.
    """
    weights = {name: weight for name, weight in (options.fusion.weights or {}).items()}
    return {
        "legs": list(options.legs) if options.legs else None,
        "fusion": options.fusion.method,
        "k": options.fusion.k,
        "weights": weights,
        "depth": options.candidates,
        "diversity": options.diversity,
        "reranker": None if reranker is None else _name(reranker, former),
    }


def _name(reranker: "Reranker | LateInteraction", former: bool) -> str:
    card = getattr(reranker, "card", None)
    if card is None:
        return type(reranker).__name__
    used = getattr(reranker, "former_fingerprint", None) if former else card.fingerprint
    return f"{card.name} {used}"


def search_with_confidence(
    store: Store,
    asked: EncodedQuery,
    options: SearchOptions,
    reranker: "Reranker | LateInteraction | None" = None,
    calibration: Calibration | None = None,
    least: MinConfidence = None,
) -> SearchResult:
    """Search, and say how sure the answer is; without hits where that is less than `least`."""
    if least is not None and calibration is None:
        error = InputError("min_confidence needs an index that was calibrated with its model")
        error.add_note("learn it: gte index calibrate KB")
        raise error
    if not (least in (None, "auto") or isinstance(least, int | float) and 0 <= least <= 1):
        raise InputError(f"min_confidence is {least!r}, expected 'auto' or 0 to 1")
    if calibration is None:
        return query.search(store, asked, options, reranker)
    asked_way = search_configuration(options, reranker)
    way = dict(calibration.way)
    if asked_way != way and search_configuration(options, reranker, former=True) != way:
        changed = [name for name, value in asked_way.items() if value != calibration.way[name]]
        note = f"no confidence: the index was calibrated for other {', '.join(changed)}"
        if least is not None:
            raise InputError(f"min_confidence: {note}")
        answer = query.search(store, asked, options, reranker)
        return replace(answer, notes=(*answer.notes, note))
    wide = replace(options, k=max(options.k, EVIDENCE_HITS))
    answer = with_confidence(query.search(store, asked, wide, reranker), asked.text, calibration)
    answer = replace(answer, hits=answer.hits[: options.k])
    return _thresholded(answer, calibration.accuracy.threshold, least)


def with_confidence(answer: SearchResult, text: str, calibration: Calibration) -> SearchResult:
    """Return an answer with its confidence, and that of each hit."""
    if not answer.hits:
        return replace(answer, confidence=0.0)
    rows = hit_evidence(answer, text)
    values = calibration.hit(rows).tolist()
    hits = [replace(hit, confidence=value) for hit, value in zip(answer.hits, values, strict=True)]
    there = float(calibration.there(answer_evidence(rows)[None])[0])
    return replace(answer, hits=tuple(hits), confidence=there)


def _thresholded(answer: SearchResult, threshold: float, least: MinConfidence) -> SearchResult:
    assert answer.confidence is not None
    limit = threshold if least in (None, "auto") else float(least)
    if answer.confidence >= limit:
        return answer
    said = f"(confidence {answer.confidence:.2f}, threshold {limit:.2f})"
    if least is None:
        return replace(answer, notes=(*answer.notes, f"probably nothing here answers that {said}"))
    return replace(answer, hits=(), notes=(*answer.notes, f"nothing here answers that {said}"))


def hit_evidence(answer: SearchResult, text: str) -> Values:
    """Return what speaks for each hit, (h, f)."""
    words = query.content_stems(text) - query.STOPWORDS
    legs = {leg: _leg(answer, leg) for leg in query.LEGS}
    length = max(1, len(words))
    lexical = [score / length for score in _raw(answer.hits, "lexical")]
    dense = legs["dense"][0]
    reranked = [hit.rerank or 0.0 for hit in answer.hits]
    used = max(1, len(answer.candidates))
    rows = [
        [
            dense[i],
            legs["dense"][1][i],
            _margin(dense, i),
            lexical[i],
            legs["lexical"][1][i],
            _margin(lexical, i),
            legs["sparse"][1][i],
            hit.passage.score or 0.0,
            len(words & query.content_stems(f"{hit.title} {hit.passage.text}")) / length,
            sum(1.0 / leg.rank for leg in hit.legs.values()) / used,
            float(i == 0),
            float(np.log1p(len(words))),
            reranked[i],
            _margin(reranked, i),
        ]
        for i, hit in enumerate(answer.hits)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, len(FEATURES))


def answer_evidence(rows: Values) -> Values:
    """Return what speaks for an answer being among the hits: of the first, and the most of all."""
    return np.concatenate([rows[0], rows[:, MAXIMA].max(axis=0)])


def _leg(answer: SearchResult, leg: str) -> tuple[list[float], list[float]]:
    """Return the score of each hit in a leg, and how many deviations it is above the candidates.

    A hit that the leg did not return counts as the worst that it did.
    """
    spread = answer.spreads.get(leg)
    if spread is None:
        return [0.0] * len(answer.hits), [0.0] * len(answer.hits)
    scores = [hit.legs[leg].score if leg in hit.legs else spread.least for hit in answer.hits]
    deviation = spread.deviation if spread.deviation > 1e-9 else 1.0
    return scores, [(score - spread.mean) / deviation for score in scores]


def _raw(hits: Sequence[SearchHit], leg: str) -> list[float]:
    return [hit.legs[leg].score if leg in hit.legs else 0.0 for hit in hits]


def _margin(values: Sequence[float], i: int) -> float:
    others = [value for j, value in enumerate(values) if j != i]
    return values[i] - max(others) if others else 0.0


def sigmoid(values: Values) -> Values:
    """Return 1 / (1 + exp(-x)), without overflow."""
    found: Values = np.exp(-np.logaddexp(0.0, -values))
    return found
