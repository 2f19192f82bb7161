"""Batches within a token budget and windows of texts, against naive implementations."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from opengte.batching import cut_batches, split_windows
from opengte.types import PackedBatch


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


@given(st.lists(st.text(max_size=5), max_size=20), st.integers(1, 5), st.integers(1, 12))
def test_windows_keep_order_and_bounds(texts, at_most, characters):
    cut_up = list(split_windows(iter(texts), at_most, characters))
    assert [text for window in cut_up for text in window] == texts
    for window in cut_up:
        assert len(window) <= at_most
        assert len(window) == 1 or sum(map(len, window)) <= characters
