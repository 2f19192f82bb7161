"""Fuse rankings of documents: weighted scores, or reciprocal rank fusion (Cormack et al. 2009).

Fused scores order documents and have no other meaning: a reciprocal-rank sum is about 0.03 for a
perfect answer, so no threshold on it makes sense.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from opengte.errors import InputError
from opengte.search.stores.base import ScoredIds

FusionMethod = Literal["rrf", "weighted"]
MOST = 6.0  # deviations between the best and the worst of a leg that found few documents
K = 60  # of reciprocal ranks, as published: the top counts, and so does agreement


@dataclass(frozen=True)
class Fusion:
    """How legs are joined: the sum of standardised scores, or reciprocal ranks; weights by leg."""

    method: FusionMethod = "weighted"
    weights: Mapping[str, float] | None = None  # a leg that is not named has weight 1
    k: int = K

    def __post_init__(self) -> None:
        """Check what came from a caller."""
        if self.method not in ("rrf", "weighted"):
            raise InputError(f"fusion method is {self.method!r}, expected rrf or weighted")
        if self.k < 1:
            raise InputError(f"k of reciprocal ranks is {self.k}, expected at least 1")
        for leg, weight in (self.weights or {}).items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"the weight of `{leg}` is {weight}, expected a number from 0 up")

    def weight(self, leg: str) -> float:
        """Return the weight of a leg."""
        return float((self.weights or {}).get(leg, 1.0))


def fuse(legs: Mapping[str, ScoredIds], fusion: Fusion) -> list[tuple[str, float]]:
    """Return all documents of all legs with their fused scores, best first, ties by name."""
    total: dict[str, float] = {}
    for leg, ranking in legs.items():
        weight = fusion.weight(leg)
        if weight == 0:
            continue
        if fusion.method == "rrf":
            parts = _reciprocal(ranking, fusion.k)
        else:
            whole = leg in ("dense", "late")  # what they did not return does not score 0
            missing = 0 if whole else max(map(len, legs.values())) - len(ranking)
            parts = standardise(ranking, missing)
        for (name, _), part in zip(ranking, parts, strict=True):
            total[name] = total.get(name, 0.0) + weight * part
    return sorted(total.items(), key=lambda one: (-one[1], one[0]))


def _reciprocal(ranking: ScoredIds, k: int) -> list[float]:
    return [1.0 / (k + rank) for rank in range(1, len(ranking) + 1)]


def standardise(ranking: ScoredIds, missing: int = 0) -> list[float]:
    """Return the scores of a leg, in deviations over its own candidates, above its worst.

    missing documents share no word with the query: their score is 0, and counts. Other documents
    that the leg did not return count as the worst that it did. Where some are missing, the best is
    at most MOST deviations above the worst: one word that is nowhere else does not decide alone.
    """
    scores = np.array([score for _, score in ranking] + [0.0] * missing, dtype=np.float64)
    if len(scores) == 0:
        return []
    above = scores - scores.min()
    spread = max(float(scores.std()), float(above.max()) / MOST if missing else 0.0)
    values: list[float] = (above / (spread if spread > 1e-9 else 1.0)).tolist()
    return values[: len(ranking)]
