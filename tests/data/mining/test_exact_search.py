"""Exact search, block by block."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte.data.mining.exact_search import nearest_rows
from opengte.search.adhoc.exact import top_k


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 80), st.integers(1, 30))
@settings(deadline=None)
def test_nearest_is_the_exact_search_whatever_the_blocks(seed, q, m, k):
    random = np.random.default_rng(seed)
    queries = random.integers(-1, 2, (q, 3)).astype(np.float32)  # many ties
    rows = random.integers(-1, 2, (m, 3)).astype(np.float32)
    cuts = np.sort(random.integers(0, m + 1, random.integers(0, 9)))
    scores, found = nearest_rows(queries, np.split(rows, cuts), k)
    expected = top_k(queries, np.split(rows, cuts), k)
    np.testing.assert_array_equal(found, expected.rows)
    np.testing.assert_array_equal(scores, expected.scores)
    for i in range(q):  # and both are what sorting gives
        every = sorted(range(m), key=lambda row: (-float(queries[i] @ rows[row]), row))
        assert found[i].tolist() == every[:k]
