"""The statistics of comparisons, held against simulation."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte.errors import InputError
from opengte.evaluate.significance import (
    bootstrap_interval,
    detectable_difference,
    holm_correction,
    paired_test,
    queries_needed,
    randomisation_p,
)
from tests.support.installed import needs

needs("scipy")

POWERS = (0.9, 1.0, 1.1)  # shares of the detectable difference


def differences(rng: np.random.Generator, n: int) -> Any:
    """Differences as nDCG@10 has them: many zeros, few large ones, symmetric around zero."""
    sizes = np.array([0.0, 0.11, 0.24, 0.37, 0.5, 1.0])
    sizes = rng.choice(sizes, n, p=[0.5, 0.2, 0.12, 0.1, 0.05, 0.03])
    return sizes * rng.choice([-1.0, 1.0], n) + rng.normal(0, 0.01, n)


def test_identical_systems_give_uniform_p() -> None:
    p = [
        randomisation_p(differences(np.random.default_rng(seed), 60), resamples=499, seed=seed)
        for seed in range(400)
    ]
    from scipy import stats

    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09


def test_exactly_equal_rankings_are_no_evidence() -> None:
    result = paired_test([0.5] * 9, [0.5] * 9)
    assert (result.p, result.difference, result.changed, result.needed) == (1.0, 0.0, 0, None)
    assert result.detectable == 0.0


def power(effect: float, n: int, runs: int) -> float:
    """The share of simulated comparisons that find a true difference."""
    found = 0
    for seed in range(runs):
        deltas = differences(np.random.default_rng(seed), n) + effect
        found += randomisation_p(deltas, resamples=199, seed=seed) <= 0.05
    return found / runs


def test_detectable_difference_agrees_with_simulation() -> None:
    n, runs = 80, 400
    stated: Any = np.mean(
        [detectable_difference(differences(np.random.default_rng(s), n)) for s in range(runs)]
    )
    found = [power(share * stated, n, runs) for share in POWERS]
    assert found == sorted(found)
    simulated = float(np.interp(0.8, found, POWERS)) * stated
    assert abs(simulated / stated - 1) < 0.1
    assert found[1] == pytest.approx(0.8, abs=0.06)


def test_interval_covers_the_truth() -> None:
    covered = 0
    for seed in range(300):
        deltas = differences(np.random.default_rng(seed), 80) + 0.07
        low, high = bootstrap_interval(deltas, resamples=400, seed=seed)
        covered += low <= 0.07 <= high
    assert 0.90 <= covered / 300 <= 0.985


def test_needed_queries_invert_the_detectable_difference() -> None:
    deltas = differences(np.random.default_rng(1), 100)
    needed = queries_needed(deltas, 0.05)
    assert needed is not None
    reached = detectable_difference(deltas, n=needed)
    assert reached is not None
    assert reached == pytest.approx(0.05, rel=0.01)
    assert queries_needed(deltas, 0.0) is None


def test_exact_for_few_queries() -> None:
    # all eight sign patterns of three equal differences: two are as extreme
    assert randomisation_p(np.array([0.1, 0.1, 0.1])) == pytest.approx(0.25)
    assert randomisation_p(np.array([0.1, 0.0])) == 1.0


def test_agrees_with_a_naive_randomisation() -> None:
    deltas = differences(np.random.default_rng(3), 40) + 0.1
    rng = np.random.default_rng(0)
    flips = rng.choice([-1, 1], (4000, 40))
    naive = np.mean(np.abs((flips * deltas).mean(1)) >= abs(deltas.mean()))
    assert randomisation_p(deltas) == pytest.approx(naive, abs=0.015)


def test_same_seed_same_result() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(50), rng.random(50)
    assert paired_test(a, b) == paired_test(a, b)
    assert paired_test(a, b).difference == pytest.approx(-paired_test(b, a).difference)


def test_refuses_scores_of_different_queries() -> None:
    with pytest.raises(InputError, match="same queries"):
        paired_test([0.1, 0.2], [0.1])
    with pytest.raises(InputError, match="at least one"):
        paired_test([], [])


def test_one_query_can_show_nothing() -> None:
    result = paired_test([0.1], [0.9])
    assert result.p == 1.0
    assert result.detectable is None and result.needed is None


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_monotone_and_never_smaller(p_values: dict[str, float]) -> None:
    corrected = holm_correction(p_values)
    assert list(corrected) == list(p_values)
    for name, p in p_values.items():
        assert p <= corrected[name] <= 1.0
        assert all(corrected[name] <= corrected[other] for other in p_values if p < p_values[other])


def test_holm_by_hand() -> None:
    corrected = holm_correction({"a": 0.01, "b": 0.04, "c": 0.03})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert math.isclose(holm_correction({"a": 0.6, "b": 0.7})["a"], 1.0)
