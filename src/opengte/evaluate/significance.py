"""Significance and power: whether a difference is real, and which the data could show.

Everything is paired: both systems answered the same queries, and only the differences count.
Letters in shapes: n queries.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from opengte.errors import InputError, MissingExtraError

Values = npt.NDArray[np.float64]

ALPHA = 0.05  # two-sided
POWER = 0.8
RESAMPLES = 9_999
CELLS = 4_000_000  # random numbers held at once


@dataclass(frozen=True)
class PairedTest:
    """System B minus system A over n queries, in the units of the metric.

    low and high bound the 95 % bootstrap interval; p is two-sided, by randomisation; detectable is
    the smallest true difference that n queries would show with power 0.8; needed is the number of
    queries that would show the difference found here, None where it is zero.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p: float
    detectable: float | None
    needed: int | None
    changed: int  # queries on which the two differ


def paired_test(
    a: npt.ArrayLike, b: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> PairedTest:
    """Compare two systems by their scores of the same queries, (n,) each.

    >>> paired_test([0.5, 0.6, 0.7, 0.4], [0.5, 0.6, 0.7, 0.4]).p
    1.0
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.shape != right.shape or left.ndim != 1 or not len(left):
        raise InputError(
            f"a has the shape {left.shape} and b {right.shape}: expected scores of the same "
            "queries, at least one"
        )
    deltas = right - left
    low, high = bootstrap_interval(deltas, resamples=resamples, seed=seed)
    return PairedTest(
        n=len(deltas),
        mean_a=float(left.mean()),
        mean_b=float(right.mean()),
        difference=float(deltas.mean()),
        low=low,
        high=high,
        p=randomisation_p(deltas, resamples=resamples, seed=seed),
        detectable=detectable_difference(deltas),
        needed=queries_needed(deltas, float(deltas.mean())),
        changed=int(np.count_nonzero(deltas)),
    )


def randomisation_p(deltas: Values, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Return the two-sided p of Fisher's paired randomisation test (Smucker et al., CIKM 2007).

    If the systems were equal, each query's difference could as well have had the other sign. Exact
    where there are few enough sign patterns, otherwise sampled; ties count against the difference.

    >>> deltas = np.array([1.0, 2.0, 0.5, 1.5, -0.5, 1.0, 2.5, 0.0])
    >>> round(randomisation_p(deltas), 3)
    0.047
    """
    deltas = deltas[deltas != 0]  # a zero has no sign to flip
    if len(deltas) < 2:  # with one sign to flip, both patterns are as extreme
        return 1.0
    stats = _scipy("stats")
    result = stats.permutation_test(
        (deltas,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, CELLS // len(deltas)),
        rng=np.random.default_rng(seed),
    )
    return float(min(1.0, result.pvalue))


def bootstrap_interval(
    deltas: Values, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 1 - ALPHA
) -> tuple[float, float]:
    """Return the bootstrap percentile interval of the mean difference, resampling queries.

    >>> deltas = np.array([1.0, 2.0, 0.5, 1.5, -0.5, 1.0, 2.5, 0.0])
    >>> low, high = bootstrap_interval(deltas)
    >>> bool(low < deltas.mean() < high)
    True
    """
    rng = np.random.default_rng(seed)
    block = max(1, CELLS // len(deltas))
    means = [
        deltas[rng.integers(0, len(deltas), (min(block, resamples - start), len(deltas)))].mean(1)
        for start in range(0, resamples, block)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def detectable_difference(
    deltas: Values, *, alpha: float = ALPHA, power: float = POWER, n: int | None = None
) -> float | None:
    """Return the smallest true mean difference that n queries like these show with this power.

    n is len(deltas) unless given. The spread of the differences is taken from the data; None with
    fewer than two queries.

    >>> deltas = np.array([1.0, 2.0, 0.5, 1.5, -0.5, 1.0, 2.5, 0.0])
    >>> round(detectable_difference(deltas), 2)
    1.15
    """
    count = len(deltas) if n is None else n
    if len(deltas) < 2 or count < 2:
        return None
    return float(_multiple(count, alpha, power) * deltas.std(ddof=1) / math.sqrt(count))


def queries_needed(
    deltas: Values, effect: float, *, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Return how many queries like these would show a true difference of this size.

    >>> deltas = np.array([1.0, 2.0, 0.5, 1.5, -0.5, 1.0, 2.5, 0.0])
    >>> queries_needed(deltas, effect=0.5)
    34
    """
    if len(deltas) < 2 or effect == 0:
        return None
    spread = float(deltas.std(ddof=1))
    count = 2
    for _ in range(50):  # the t quantiles depend weakly on the count: a fixed point comes fast
        wanted = max(2, math.ceil((_multiple(count, alpha, power) * spread / effect) ** 2))
        if wanted == count:
            break
        count = wanted
    return count


def holm_correction(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for looking at many segments (Holm, 1979), in the given order.

    >>> holm_correction({"a": 0.01, "b": 0.04})
    {'a': 0.02, 'b': 0.04}
    """
    worst, corrected = 0.0, {}
    ordered = sorted(p_values, key=lambda name: p_values[name])
    for rank, name in enumerate(ordered):
        worst = max(worst, min(1.0, p_values[name] * (len(ordered) - rank)))
        corrected[name] = worst
    return {name: corrected[name] for name in p_values}


def _multiple(n: int, alpha: float, power: float) -> float:
    """Return the detectable difference in standard errors of a paired t test."""
    stats = _scipy("stats")
    freedom = n - 1
    return float(stats.t.ppf(1 - alpha / 2, freedom) + stats.t.ppf(power, freedom))


def _scipy(name: str):  # type: ignore[no-untyped-def]
    from importlib import import_module

    try:
        return import_module(f"scipy.{name}")
    except ImportError as error:
        raise MissingExtraError("scipy", "eval", "comparing systems") from error
