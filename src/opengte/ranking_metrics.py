"""Metrics of rankings, as pure functions of arrays."""

import numpy as np
import numpy.typing as npt


def ndcg(gains: npt.ArrayLike, relevance: npt.ArrayLike, k: int = 10) -> npt.NDArray[np.float64]:
    """Return nDCG@k (Järvelin and Kekäläinen, 2002) of one ranking or of several.

    gains (..., n) is the relevance of the ranked documents, best rank first; relevance (..., m) is
    that of all relevant documents of the query, in any order; zeros do not count. The result has
    the leading shape, and is 0 where nothing is relevant.

    >>> float(ndcg([1, 0, 1], [1, 1]).round(4))
    0.9197
    """
    ranked = np.asarray(gains, dtype=np.float64)[..., :k]
    ideal = -np.sort(-np.asarray(relevance, dtype=np.float64), axis=-1)[..., :k]
    discounts = 1 / np.log2(np.arange(2, k + 2))
    found = (ranked * discounts[: ranked.shape[-1]]).sum(axis=-1)
    if not ideal.shape[-1]:
        return np.zeros_like(found)
    best = np.cumsum(ideal * discounts[: ideal.shape[-1]], axis=-1)[..., -1]
    result: npt.NDArray[np.float64] = np.where(best > 0, found / np.where(best > 0, best, 1), 0.0)
    return result
