"""Rows with the same query."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from opengte.data.examples import Hashes
from opengte.data.shards.query_groups import QueryGroups


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 2**32))
def test_siblings_are_the_rows_with_the_same_hash(values, seed):
    hashes: Hashes = np.stack([np.array(values) % 2, np.array(values) // 2], 1).astype(np.int64)
    rows = np.random.default_rng(seed).integers(0, len(values), 9)
    every, counts = QueryGroups(hashes).expand(rows)
    groups = np.split(every, np.cumsum(counts)[:-1])
    for row, group in zip(rows.tolist(), groups, strict=True):
        expected = [i for i, value in enumerate(values) if value == values[row]]
        assert sorted(group.tolist()) == expected
