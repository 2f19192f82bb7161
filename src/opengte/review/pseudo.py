"""Judgments without labels and without a language model, each kind with its own reliability.

Known items are questions made of documents: the document answers. Agreement takes the queries of
the log: what rankers of different kinds (by vectors, by words) both put on top is an answer.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from opengte.review.judgments import JudgedQuery
from opengte.review.pipeline import Pipeline, VectorPlan, WordPlan
from opengte.review.replay import Replay
from opengte.search.calibration.calibrate import generate_question
from opengte.search.maintenance.compare import kendall_tau
from opengte.search.retrieval.search import content_stems

KNOWN_ITEMS = 150  # questions that are made
AGREED = 3  # results of a ranker that are looked at
LEAST_LABELLED = 10  # labelled queries from which reliability is estimated


@dataclass(frozen=True)
class Reliability:
    """How far pseudo-judgments can be trusted, measured on labelled queries; None: not known.

    precision is the share of documents that they call answers and labels do too; correlation
    Kendall's tau between the gains of all arms by both.
    """

    origin: str
    queries: int
    precision: float | None = None
    correlation: float | None = None


def known_items(replay: Replay, *, count: int = KNOWN_ITEMS, seed: int = 0) -> list[JudgedQuery]:
    """Return questions made of documents, of their sources where those are known."""
    chance = random.Random(seed)
    pool = replay.pool
    held = pool.read(sources=bool(pool.differences.texts))
    names = [name for name in sorted(held) if name not in pool.sampled]
    chance.shuffle(names)
    often = Counter(word for name in names[:count] for word in content_stems(held[name].text))
    found = []
    for name in names[:count]:
        text = generate_question(held[name].text, often, chance)
        if text is None:
            continue
        gone = name not in pool.documents
        grades = {name: 1.0}
        found.append(
            JudgedQuery(
                text,
                relevant={} if gone else grades,
                absent=grades if gone else {},
                origin="known item",
            )
        )
    return found


def agreement(
    replay: Replay, live: Pipeline, queries: Sequence[JudgedQuery], models: Sequence[str]
) -> list[JudgedQuery]:
    """Return queries of the log with what rankers of both kinds put on top; others are left out.

    No ranker filters or has a threshold, and none uses the vectors that the index stores.
    """
    base = replace(live, options=replace(live.options, where=None), replica=True)
    vectors = [replace(base, vectors=VectorPlan(model=name)) for name in ("", *models)]
    words = [replace(base, words=WordPlan(language)) for language in ("English", None)]
    found = []
    for query in queries:
        near = _tops(replay, vectors, "dense", query.text)
        worded = _tops(replay, words, "lexical", query.text)
        both = near & worded
        if both:
            grades = dict.fromkeys(sorted(both), 1.0)
            found.append(replace(query, relevant=grades, absent={}, origin="agreement"))
    return found


def _tops(replay: Replay, rankers: Sequence[Pipeline], leg: str, text: str) -> set[str]:
    return {name for one in rankers for name, _ in replay.leg(one, leg, text, AGREED)}


def reliability(
    origin: str,
    pseudo: Sequence[JudgedQuery],
    labelled: Sequence[JudgedQuery],
    gains: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Reliability:
    """Return how far pseudo-judgments agree with labels."""
    labels = {one.text: one.relevant or {} for one in labelled if one.judged}
    if len(labels) < LEAST_LABELLED:
        return Reliability(origin, len(pseudo))
    right = [
        float(np.mean([name in labels[one.text] for name in one.relevant]))
        for one in pseudo
        if one.text in labels and one.relevant
    ]
    precision = float(np.mean(right)) if right else None
    correlation = None
    if gains is not None and len(gains[0]) > 1:
        orders = [
            [str(i) for i in np.argsort(-np.array(one), kind="stable").tolist()] for one in gains
        ]
        correlation = kendall_tau(*orders)
    return Reliability(origin, len(pseudo), precision, correlation)
