"""Assembles the answer of a request from the results of its distinct inputs."""

import math
from typing import Any

from opengte.serve.inference.in_flight import PendingRequest, with_index
from opengte.serve.types import EmbedAnswer, InputFailure, ScoreAnswer
from opengte.types import ModelCard, Output, Truncated


def embed_answer(
    card: ModelCard, outputs: frozenset[Output], request: PendingRequest
) -> EmbedAnswer:
    """Return the answer to an embedding request."""
    results = [request.results[i] for i in request.inverse]

    def column(name: Output) -> list[Any] | None:
        if name not in outputs:
            return None
        return [None if result is None else getattr(result, name) for result in results]

    return EmbedAnswer(
        model=card,
        dense=column("dense"),
        sparse=column("sparse"),
        tokens=column("tokens"),
        states=column("states"),
        **_common(request),
    )


def score_answer(card: ModelCard, request: PendingRequest, *, sigmoid: bool) -> ScoreAnswer:
    """Return the answer to a scoring request; with sigmoid, logits become scores in 0..1."""
    results = [request.results[i] for i in request.inverse]
    raw = [None if result is None else result.score for result in results]
    scores = [None if x is None else logistic(x) if sigmoid else x for x in raw]
    return ScoreAnswer(model=card, scores=scores, **_common(request))


def logistic(x: float) -> float:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _common(request: PendingRequest) -> dict[str, Any]:
    """Return the fields that both kinds of answers have."""
    results = [request.results[i] for i in request.inverse]
    failures: tuple[InputFailure, ...] = ()
    if request.failures:
        failures = tuple(
            InputFailure(index, with_index(index, request.failures[i]))
            for index, i in enumerate(request.inverse)
            if i in request.failures
        )
    return {
        "token_counts": [0 if result is None else result.length for result in results],
        "truncated": tuple(
            Truncated(index, result.original_length, result.length, result.at_least)
            for index, result in enumerate(results)
            if result is not None and result.original_length > result.length
        ),
        "failures": failures,
        "cached": request.shared,
        "timing": request.timing,
    }
