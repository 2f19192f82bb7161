"""Groups of rows that share their query: what answers one of them answers all."""

import numpy as np

from opengte.data.arrays import Longs, ranges
from opengte.data.examples import Hashes


class QueryGroups:
    """Groups of rows with equal hashes (n, 2); rows with a query of their own take no memory.

    >>> groups = QueryGroups(np.array([[1, 1], [2, 2], [1, 1]]))
    >>> groups.expand(np.array([0, 1]))
    (array([0, 2, 1]), array([2, 1]))
    """

    def __init__(self, hashes: Hashes) -> None:
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        new = np.ones(len(order), dtype=bool)
        new[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
        group = np.cumsum(new) - 1  # of each row, in sorted order
        shared = np.bincount(group, minlength=1)[group] > 1
        self.members: Longs = order[shared].astype(np.int64)  # group after group, ascending
        _, starts, inverse, counts = np.unique(
            group[shared], return_index=True, return_inverse=True, return_counts=True
        )
        by_row = np.argsort(self.members)
        self.rows = self.members[by_row]  # ascending
        self.starts, self.counts = starts[inverse][by_row], counts[inverse][by_row]

    def expand(self, rows: Longs) -> tuple[Longs, Longs]:
        """Return each row with all rows of the same query, and the size of each group, (n,)."""
        if len(self.rows) == 0:
            return rows, np.ones_like(rows)
        place = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        shared = self.rows[place] == rows
        counts = np.where(shared, self.counts[place], 1)
        every = np.repeat(rows, counts)
        every[np.repeat(shared, counts)] = self.members[
            ranges(self.starts[place][shared], counts[shared])
        ]
        return every, counts
