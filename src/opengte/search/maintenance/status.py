"""The state of an index: sizes, unindexed rows, problems, recall of approximate search."""

import time
from dataclasses import dataclass

import numpy as np

from opengte.embedding_ops import l2_normalise
from opengte.search.calibration.confidence import Calibration, calibration_of
from opengte.search.index import Index
from opengte.search.maintenance.migrate import previous_model
from opengte.search.stores.base import StoreHealth
from opengte.types import Floats

AMONG = 10  # the k of the recall


@dataclass(frozen=True)
class RecallProbe:
    """The share of the exact best 10 that the approximate search finds, over sampled questions."""

    value: float
    worst: float
    questions: int
    seconds: float  # of one approximate search
    exact_seconds: float


@dataclass(frozen=True)
class IndexStatus:
    """The state of an index; problems and warnings count files.

    before is the model of the generation that a rollback would go to; calibration says how sure
    answers are, None if nothing learned it.
    """

    place: str
    model: str
    fingerprint: str
    health: StoreHealth
    files: int
    problems: int
    warnings: int
    before: str | None
    calibration: Calibration | None
    recall: RecallProbe | None


def index_status(index: Index, sample: int) -> IndexStatus:
    """Return the state of an index."""
    files = problems = warnings = 0
    for source in index.store.sources():
        files += 1
        problems += bool(source.problems)
        warnings += bool(source.warnings)
    return IndexStatus(
        place=index.place,
        model=index.identity.model,
        fingerprint=index.identity.fingerprint,
        health=index.store.health(),
        files=files,
        problems=problems,
        warnings=warnings,
        before=previous_model(index),
        calibration=calibration_of(index.settings),
        recall=probe_recall(index, sample) if sample else None,
    )


def probe_recall(index: Index, sample: int) -> RecallProbe | None:
    """Compare approximate and exact search on questions that are like the documents, not equal."""
    shares, fast, slow = [], 0.0, 0.0
    for question in _questions(index, sample):
        start = time.perf_counter()
        found = index.store.dense(question, AMONG, None)
        middle = time.perf_counter()
        true = index.store.dense(question, AMONG, None, exact=True)
        fast, slow = fast + middle - start, slow + time.perf_counter() - middle
        if true:
            worst = true[-1][1] - 1e-6  # equal scores may come in any order
            shares.append(sum(score >= worst for _, score in found) / len(true))
    if not shares:
        return None
    return RecallProbe(
        value=float(np.mean(shares)),
        worst=min(shares),
        questions=len(shares),
        seconds=fast / len(shares),
        exact_seconds=slow / len(shares),
    )


def _questions(index: Index, sample: int) -> list[Floats]:
    """Return vectors of passages of documents all over the index."""
    found = []
    for document in index.store.sample(sample):
        window = document.windows[0]
        spans = window.spans.floats()
        found.append(l2_normalise(spans[len(spans) // 2]) if len(spans) else window.vector)
    return found
