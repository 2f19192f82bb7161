"""Metrics of rankings against their definitions and against ir-measures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte.ranking_metrics import ndcg

RANKING = st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=10)


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_ndcg_is_what_its_definition_says(seed, queries, documents):
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 9, (queries, documents)).astype(np.float32)
    relevant = draw.random((queries, documents)) < 0.3
    relevant[:, 0] = True
    expected = []
    for q in range(queries):
        order = sorted(range(documents), key=lambda d: (-scores[q, d], d))[:10]
        gain = sum(1 / np.log2(rank + 2) for rank, d in enumerate(order) if relevant[q, d])
        best = sum(1 / np.log2(rank + 2) for rank in range(min(10, int(relevant[q].sum()))))
        expected.append(gain / best)
    order = np.argsort(-scores, axis=1, kind="stable")
    values = ndcg(np.take_along_axis(relevant, order, axis=1), relevant)
    assert values == pytest.approx(expected)


@given(RANKING, st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 3)))
def test_ndcg_against_ir_measures(ranking, relevant):
    ir_measures = pytest.importorskip("ir_measures")
    ours = ndcg([relevant.get(name, 0) for name in ranking], list(relevant.values()))
    if not ranking or not relevant:
        assert ours == 0.0
        return
    run = {"q": {name: 1.0 / (rank + 1) for rank, name in enumerate(ranking)}}
    true = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], {"q": relevant}, run)
    assert ours == pytest.approx(true[ir_measures.nDCG @ 10])
