"""Computed permutations, held against one with Python integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte.data.sampling.permutation import mix, permuted
from opengte.errors import InputError
from tests.support.slow_permutation import MASK, slow_mix, slow_permutation


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=4))
def test_mixing_is_what_python_integers_give(parts):
    assert int(mix(*parts)) == slow_mix(*parts)
    array = np.array([part & MASK for part in parts], dtype=np.uint64)
    assert mix(3, array).tolist() == [slow_mix(3, part) for part in parts]


@given(st.integers(1, 300), st.integers(0, MASK), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_permutation_has_every_number_once(n, key, seed):
    whole = permuted(np.arange(n), n, key)
    assert whole.tolist() == slow_permutation(n, key)
    assert sorted(whole.tolist()) == list(range(n))
    some = np.random.default_rng(seed).integers(0, n, 7)
    assert permuted(some, n, key).tolist() == whole[some].tolist()


def test_permutations_of_large_numbers():
    n = 10**11 + 7
    places = np.array([0, 1, n // 2, n - 1])
    found = permuted(places, n, 5)
    assert len(set(found.tolist())) == 4
    assert 0 <= found.min() <= found.max() < n
    with pytest.raises(InputError, match="places must be among the 3 numbers"):
        permuted([3], 3, 0)


def test_permutations_look_random():
    # chi-square of where each number goes, over many keys: 80 +- 4 standard deviations
    n, keys = 9, 2000
    counts = np.zeros((n, n))
    for key in range(keys):
        counts[np.arange(n), permuted(np.arange(n), n, mix(key))] += 1
    expected = keys / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (n - 1) ** 2
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)
    large = permuted(np.arange(10_000), 10_000, 1)
    assert abs(np.corrcoef(np.arange(10_000), large)[0, 1]) < 0.05
    assert abs((np.diff(large) > 0).mean() - 0.5) < 0.03
