"""What state is an index in? Sizes, what no index covers, age, recall of the fast search."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opengte.embedding_ops import l2_normalise
from opengte.search.calibration.confidence import Calibration
from opengte.search.stores.base import Health
from opengte.types import Floats

if TYPE_CHECKING:
    from opengte.search.kb import KnowledgeBase

AMONG = 10  # the k of the recall


@dataclass(frozen=True)
class Recall:
    """The share of the exact best 10 that the approximate search finds, over sampled questions."""

    value: float
    worst: float
    questions: int
    seconds: float  # of one approximate search
    exact_seconds: float


@dataclass(frozen=True)
class Status:
    """The state of an index; problems and warnings count files.

    before is the model of the generation that a rollback would go to; calibration says how sure
    answers are, None if nothing learned it.
    """

    place: str
    model: str
    fingerprint: str
    health: Health
    files: int
    problems: int
    warnings: int
    before: str | None
    calibration: Calibration | None
    recall: Recall | None


def status(kb: "KnowledgeBase", sample: int) -> Status:
    """Return the state of an index."""
    from opengte.search.maintenance.migrate import before  # which opens knowledge bases

    files = problems = warnings = 0
    for source in kb.store.sources():
        files += 1
        problems += bool(source.problems)
        warnings += bool(source.warnings)
    return Status(
        place=kb.place,
        model=kb.identity.model,
        fingerprint=kb.identity.fingerprint,
        health=kb.store.health(),
        files=files,
        problems=problems,
        warnings=warnings,
        before=before(kb),
        calibration=kb.calibration,
        recall=probe(kb, sample) if sample else None,
    )


def probe(kb: "KnowledgeBase", sample: int) -> Recall | None:
    """Compare approximate and exact search on questions that are like the documents, not equal."""
    shares, fast, slow = [], 0.0, 0.0
    for question in _questions(kb, sample):
        start = time.perf_counter()
        found = kb.store.dense(question, AMONG, None)
        middle = time.perf_counter()
        true = kb.store.dense(question, AMONG, None, exact=True)
        fast, slow = fast + middle - start, slow + time.perf_counter() - middle
        if true:
            worst = true[-1][1] - 1e-6  # equal scores may come in any order
            shares.append(sum(score >= worst for _, score in found) / len(true))
    if not shares:
        return None
    return Recall(
        value=float(np.mean(shares)),
        worst=min(shares),
        questions=len(shares),
        seconds=fast / len(shares),
        exact_seconds=slow / len(shares),
    )


def _questions(kb: "KnowledgeBase", sample: int) -> list[Floats]:
    """Return vectors of passages of documents all over the index."""
    found = []
    for document in kb.store.sample(sample):
        window = document.windows[0]
        spans = window.spans.floats()
        found.append(l2_normalise(spans[len(spans) // 2]) if len(spans) else window.vector)
    return found
