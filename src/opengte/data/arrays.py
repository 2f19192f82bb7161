"""Array types and index arithmetic that the data package shares."""

from typing import Any

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]


def ranges(starts: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Longs:
    """Return starts[0], starts[0] + 1, ... (counts[0] of them), starts[1], ...

    >>> ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total)
