"""From a job's rows to the answer, every input in its place."""

import math
from collections.abc import Iterable
from typing import Any

from opengte.serve.inference.jobs import Job, at
from opengte.serve.types import EmbedAnswer, InputFailure, ScoreAnswer
from opengte.types import ModelCard, Output, Truncated


def embedded(card: ModelCard, outputs: frozenset[Output], job: Job) -> EmbedAnswer:
    """Return the answer to an embedding request."""
    rows = [job.rows[i] for i in job.inverse]

    def column(name: Output) -> list[Any] | None:
        if name not in outputs:
            return None
        return [None if row is None else getattr(row, name) for row in rows]

    return EmbedAnswer(
        model=card,
        dense=column("dense"),
        sparse=column("sparse"),
        tokens=column("tokens"),
        states=column("states"),
        **_common(job),
    )


def scored(card: ModelCard, job: Job, *, sigmoid: bool) -> ScoreAnswer:
    """Return the answer to a scoring request, logits as 0..1 where asked."""
    rows = [job.rows[i] for i in job.inverse]
    raw = [None if row is None else row.score for row in rows]
    scores = [None if x is None else logistic(x) if sigmoid else x for x in raw]
    return ScoreAnswer(model=card, scores=scores, **_common(job))


def logistic(x: float) -> float:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _common(job: Job) -> dict[str, Any]:
    rows = [job.rows[i] for i in job.inverse]
    failures: Iterable[InputFailure] = ()
    if job.failures:
        failures = (
            InputFailure(place, at(place, job.failures[i]))
            for place, i in enumerate(job.inverse)
            if i in job.failures
        )
    return {
        "token_counts": [0 if row is None else row.kept for row in rows],
        "truncated": tuple(
            Truncated(place, row.found, row.kept)
            for place, row in enumerate(rows)
            if row is not None and row.found > row.kept
        ),
        "failures": tuple(failures),
        "cached": job.shared,
        "timing": job.timing,
    }
