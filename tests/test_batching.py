"""Batches under a token budget, windows and folding, against naive twins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte import embedding_ops
from opengte.batching import cut_batches, split_windows
from opengte.types import Embeddings, PackedBatch, Truncated


def cut_naively(lengths: list[int], max_tokens: int) -> list[list[int]]:
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or lengths[index] > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(index)
        room -= lengths[index]
    return batches


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 120))
def test_cut_is_the_naive_cut(lengths, max_tokens):
    assert [b.tolist() for b in cut_batches(lengths, max_tokens)] == cut_naively(
        lengths, max_tokens
    )


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.data())
def test_select_takes_whole_sequences(lengths, data):
    cu_seqlens = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    ids = np.arange(cu_seqlens[-1], dtype=np.int32)
    batch = PackedBatch(ids, cu_seqlens, ids % 2, np.arange(len(lengths), dtype=np.int32))
    picked = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8))
    part = batch.select(np.array(picked, dtype=np.intp))
    sequences = [ids[cu_seqlens[i] : cu_seqlens[i + 1]] for i in picked]
    assert part.ids.tolist() == [token for sequence in sequences for token in sequence]
    assert part.lengths.tolist() == [lengths[i] for i in picked]
    assert part.pool_from.tolist() == picked


def result(count: int, offset: int = 0) -> Embeddings:
    dense = np.arange(count, dtype=np.float32)[:, None] + offset
    counts = np.arange(count, dtype=np.int32)
    return Embeddings(dense, None, None, None, counts, (Truncated(0, 9, 5),), (1,))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9))
def test_unfold_gives_every_text_the_result_of_its_twin(items):
    distinct, inverse = embedding_ops.deduplicate(items)
    spread = embedding_ops.expand_duplicates(result(len(distinct)), inverse)
    assert [distinct[int(row)] for row in spread.dense[:, 0]] == items
    assert [r.index for r in spread.truncated] == [i for i, x in enumerate(items) if x == items[0]]


def test_join_and_shift_count_from_the_start():
    parts = [
        embedding_ops.shift_indices(result(2), 0),
        embedding_ops.shift_indices(result(3, 10), 2),
    ]
    joined = embedding_ops.concatenate(parts)
    assert joined.dense[:, 0].tolist() == [0, 1, 10, 11, 12]
    assert [r.index for r in joined.truncated] == [0, 2]
    assert joined.repaired == (1, 3)


@given(st.lists(st.text(max_size=5), max_size=20), st.integers(1, 5), st.integers(1, 12))
def test_windows_keep_order_and_bounds(texts, at_most, characters):
    cut_up = list(split_windows(iter(texts), at_most, characters))
    assert [text for window in cut_up for text in window] == texts
    for window in cut_up:
        assert len(window) <= at_most
        assert len(window) == 1 or sum(map(len, window)) <= characters


def test_normalise_leaves_zero_vectors_alone():
    vectors = np.array([[3, 4], [0, 0]], np.float32)
    assert embedding_ops.l2_normalise(vectors).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0, 0],
    ]
