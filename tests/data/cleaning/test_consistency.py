"""The consistency filter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte.data.cleaning import consistency
from opengte.data.cleaning.consistency import (
    ConsistencyFilter,
    RandomPool,
    positive_ranks,
    sample_texts,
)
from opengte.data.examples import (
    text_hash,
)
from opengte.data.preparation.prepare import prepare
from opengte.data.reading.sources import SourceSpec
from opengte.errors import InputError
from tests.support.training_data import (
    encoding,
    made,
    write_lines,
)


@given(
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_ranks_are_those_of_a_sorted_list(seed, n, m, d, known_count):
    random = np.random.default_rng(seed)
    queries, positives = random.integers(-2, 3, (2, n, d)).astype(np.float32)
    vectors = random.integers(-2, 3, (m, d)).astype(np.float32)
    hashes = [bytes([i]) * 16 for i in range(m)]
    known = [
        frozenset(bytes([i]) * 16 for i in random.integers(0, m + 3, known_count)) for _ in range(n)
    ]
    found = positive_ranks(queries, positives, known, RandomPool(hashes, vectors))
    for i in range(n):
        own = float(queries[i] @ positives[i])
        others = [
            float(queries[i] @ v) for h, v in zip(hashes, vectors, strict=True) if h not in known[i]
        ]
        assert found[i] == 1 + sum(other > own for other in others)


@given(st.lists(st.text(max_size=3)), st.integers(1, 9), st.integers(-3, 3), st.randoms())
def test_a_pool_is_random_distinct_and_whatever_the_order(texts, size, seed, random):
    pool = sample_texts(texts, size, seed)
    distinct = {text_hash(text) for text in texts}
    assert len(pool) == min(size, len(distinct)) == len({text_hash(text) for text in pool})
    shuffled = list(texts)
    random.shuffle(shuffled)
    again = sample_texts(shuffled, size, seed)
    assert list(map(text_hash, again)) == list(map(text_hash, pool))


def embed(texts, *_: object):
    """Embed a text by its last word, a number: neighbours on a circle."""
    angles = np.array([float(text.split()[-1]) for text in texts]) / 10
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def test_pairs_whose_positive_ranks_low_are_dropped(tmp_path):
    rows = [{"query": f"what is {i}", "positive": [f"the {i}"]} for i in range(20)]
    rows[3]["positive"] = ["the 13.2"]
    rows[5]["positive"] = ["the 5", "the 15.2"]
    path = write_lines(tmp_path / "a.jsonl", rows)
    scored = [{"sentence1": "a 1", "sentence2": "b 9", "score": 0}]
    asked = ConsistencyFilter(embed, embed, "model", keep=2, pool=100)
    data, done = made(
        tmp_path,
        SourceSpec("a", (path,)),
        SourceSpec("s", (write_lines(tmp_path / "s.jsonl", scored),)),
        consistent=asked,
    )
    assert [source.rows for source in data.sources] == [19, 1]
    assert done.tallies["a"].dropped == {"positive ranks too low": 1}
    assert done.tallies["a"].texts == {"positive: positive ranks too low": 1}
    assert not list((tmp_path / "out").glob("pool*"))
    with pytest.raises(InputError, match="filters.consistency.keep was 2, is now 1"):
        prepare(
            [SourceSpec("a", (path,)), SourceSpec("s", (tmp_path / "s.jsonl",))],
            tmp_path / "out",
            encoding(tmp_path),
            consistent=ConsistencyFilter(embed, embed, "model", keep=1, pool=100),
        )


def test_the_vectors_of_a_pool_are_taken_up_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(consistency, "BLOCK", 4)
    texts = [f"t {i}" for i in range(11)]
    pool = consistency.embed_pool(texts, embed, tmp_path / "pool.npy")
    np.testing.assert_array_equal(pool.vectors, embed(texts))
    again = consistency.embed_pool(texts, lambda t: pytest.fail("again"), tmp_path / "pool.npy")
    np.testing.assert_array_equal(again.vectors, pool.vectors)


def test_a_filter_that_cannot_drop_is_an_error():
    with pytest.raises(InputError, match="keep=5 with a pool of 5"):
        ConsistencyFilter(embed, embed, "m", keep=5, pool=5)
