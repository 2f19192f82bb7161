"""Deduplicated inputs, joined windows and normalised vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte import embedding_ops
from opengte.types import Embeddings, Truncated


def result(count: int, offset: int = 0) -> Embeddings:
    dense = np.arange(count, dtype=np.float32)[:, None] + offset
    counts = np.arange(count, dtype=np.int32)
    return Embeddings(dense, None, None, None, counts, (Truncated(0, 9, 5),), (1,))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9))
def test_every_text_gets_the_result_of_its_duplicate(items):
    distinct, inverse = embedding_ops.deduplicate(items)
    spread = embedding_ops.expand_duplicates(result(len(distinct)), inverse)
    assert [distinct[int(row)] for row in spread.dense[:, 0]] == items
    assert [r.index for r in spread.truncated] == [i for i, x in enumerate(items) if x == items[0]]


def test_joined_windows_count_from_the_start():
    parts = [
        embedding_ops.shift_indices(result(2), 0),
        embedding_ops.shift_indices(result(3, 10), 2),
    ]
    joined = embedding_ops.concatenate(parts)
    assert joined.dense[:, 0].tolist() == [0, 1, 10, 11, 12]
    assert [r.index for r in joined.truncated] == [0, 2]
    assert joined.repaired == (1, 3)


def test_l2_normalise_leaves_zero_vectors_alone():
    vectors = np.array([[3, 4], [0, 0]], np.float32)
    assert embedding_ops.l2_normalise(vectors).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0, 0],
    ]
