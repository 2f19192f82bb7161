"""The state of an index: sizes, unindexed rows, problems, recall of approximate search."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from opengte.embedding_ops import l2_normalise
from opengte.search.calibration.confidence import Calibration, calibration_of
from opengte.search.index import Index
from opengte.search.ingest.writer import part_id
from opengte.search.maintenance.migrate import previous_model
from opengte.search.stores.base import Store, StoreHealth
from opengte.types import Floats

AMONG = 10  # the k of the recall
KINDS = ("failed", "skipped", "warning")


class FileProblem(NamedTuple):
    """A file, or a part of it, that was not indexed or whose text is doubtful, and why."""

    place: str
    reason: str
    kind: Literal["failed", "skipped", "warning"]


class ProblemGroup(NamedTuple):
    """The files that share a reason."""

    kind: str
    reason: str
    places: list[str]


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
    """The state of an index; files were read, problems, warnings and skipped count files.

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
    skipped: int
    before: str | None
    calibration: Calibration | None
    recall: RecallProbe | None


def index_status(index: Index, sample: int) -> IndexStatus:
    """Return the state of an index."""
    files = problems = warnings = skipped = 0
    for source in index.store.sources():
        files += not source.is_skipped
        skipped += source.is_skipped
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
        skipped=skipped,
        before=previous_model(index),
        calibration=calibration_of(index.settings),
        recall=probe_recall(index, sample) if sample else None,
    )


def file_problems(store: Store) -> Iterator[FileProblem]:
    """Yield what became of every file that was not simply indexed."""
    for source in store.sources():
        for reason in source.problems:
            yield FileProblem(source.id, reason, "failed")
        for part, reason in source.skipped:
            yield FileProblem(part_id(source.id, part), reason, "skipped")
        for reason in source.warnings:
            yield FileProblem(source.id, reason, "warning")


def group_by_reason(problems: Iterable[FileProblem]) -> list[ProblemGroup]:
    """Return problems by reason: first failures, then what was skipped; large groups first."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in problems:
        found.setdefault((one.kind, one.reason), []).append(one.place)
    groups = [ProblemGroup(*key, sorted(places)) for key, places in found.items()]
    return sorted(groups, key=lambda one: (KINDS.index(one.kind), -len(one.places), one.reason))


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
