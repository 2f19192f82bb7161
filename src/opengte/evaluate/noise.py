"""The noise of scores: the difference to expect between two runs of one model, in points."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

SAMPLED = ("Classification", "MultilabelClassification", "Clustering")
DETERMINISTIC = {"Retrieval": 0.1, "BitextMining": 0.1, "Reranking": 0.1}
STS = 0.05  # a rank correlation of thousands of pairs: only rounding moves it
KMEANS = 11.0  # k-means run once, started elsewhere: measured, see docs/guides/evaluate.md
FLOOR = 0.1


def score_noise(kind: str, metric: str, scores: Mapping[str, Any]) -> float:
    """Return twice the standard error of the difference of two runs; scores are mteb's.

    Tasks that repeat their draws say themselves how much these move the score; a rerun draws anew,
    so that both runs' errors count.
    """
    if kind not in SAMPLED:
        return DETERMINISTIC.get(kind, STS)
    draws = list(_draws(metric, scores))
    if len(draws) < 3:
        return KMEANS
    error = statistics.stdev(draws) * math.sqrt(2 / len(draws))
    return max(FLOOR, 200 * error)


def _draws(metric: str, scores: Mapping[str, Any]) -> Iterable[float]:
    """Yield the scores of the single experiments of a task."""
    for experiment in scores.get("scores_per_experiment", ()):
        yield float(experiment[metric])
    levels = scores.get("v_measures")
    if isinstance(levels, Mapping):
        for level in levels.values():
            yield from level
