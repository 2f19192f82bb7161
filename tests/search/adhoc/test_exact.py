"""Exact top-k by blocks, against a naive twin."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from opengte.search.adhoc.exact import empty_top_k, merge_top_k, top_k


def naive(queries, vectors, groups, k):
    """Score everything, sort, take the first of each group."""
    results = []
    for query in queries:
        scored = sorted((-float(vector @ query), row) for row, vector in enumerate(vectors))
        seen, rows = set(), []
        for _, row in scored:
            if groups[row] not in seen:
                seen.add(groups[row])
                rows.append(row)
        results.append(rows[:k])
    return results


@st.composite
def searches(draw):
    """Small integers as vectors: exact products, and many ties."""
    width, rows = draw(st.integers(1, 3)), draw(st.integers(0, 30))
    number = st.integers(-2, 2).map(float)
    matrix = [[draw(number) for _ in range(width)] for _ in range(rows)]
    asked = [[draw(number) for _ in range(width)] for _ in range(draw(st.integers(1, 3)))]
    groups = [draw(st.integers(0, 6)) for _ in range(rows)]
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=4)))
    vectors = np.array(matrix, dtype=np.float32).reshape(rows, width)
    return np.array(asked, dtype=np.float32), vectors, np.array(groups, dtype=np.int64), cuts


@given(searches(), st.integers(1, 8))
def test_top_k_is_the_naive_top_k(search, k):
    queries, vectors, _, cuts = search
    best = top_k(queries, np.split(vectors, cuts), k)
    assert best.rows.tolist() == naive(queries, vectors, range(len(vectors)), k)
    for query, scores, rows in zip(queries, best.scores, best.rows, strict=True):
        np.testing.assert_array_equal(scores, vectors[rows] @ query)


@given(searches(), st.integers(1, 8))
def test_a_group_keeps_its_best_row_over_all_blocks(search, k):
    queries, vectors, groups, cuts = search
    best, rows = empty_top_k(len(queries)), np.arange(len(vectors))
    for part in np.split(rows, cuts):
        best = merge_top_k(best, queries, vectors[part], part, groups[part], k)
    assert best.rows.tolist() == naive(queries, vectors, groups.tolist(), k)
    np.testing.assert_array_equal(best.groups, groups[best.rows] if len(groups) else best.rows)


def test_no_blocks_give_no_rows():
    assert top_k(np.ones((2, 3), np.float32), [], 5).rows.shape == (2, 0)
