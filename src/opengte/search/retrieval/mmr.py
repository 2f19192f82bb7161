"""Maximal marginal relevance (Carbonell and Goldstein 1998): results that differ from each other.

Letters in shapes: n candidates, d width of a vector.
"""

import numpy as np
import numpy.typing as npt

from opengte.types import Floats


def mmr(relevance: npt.ArrayLike, vectors: Floats, k: int, diversity: float) -> list[int]:
    """Return k of n candidates: each is the best of what is left, less what it repeats.

    relevance (n,) is brought to 0..1; vectors (n, d) are of length one; diversity is 0 for the
    order of relevance, 1 for as different as possible.
    """
    scores = np.asarray(relevance, dtype=np.float64)
    if len(scores) == 0:
        return []
    low, high = scores.min(), scores.max()
    gain = (1.0 - diversity) * (scores - low) / (high - low if high > low else 1.0)
    repeated = np.zeros(len(scores))
    chosen: list[int] = []
    left = np.ones(len(scores), dtype=bool)
    while left.any() and len(chosen) < k:
        value = np.where(left, gain - diversity * repeated, -np.inf)
        best = int(value.argmax())
        chosen.append(best)
        left[best] = False
        repeated = np.maximum(repeated, vectors @ vectors[best])
    return chosen
