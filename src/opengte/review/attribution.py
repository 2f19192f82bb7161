"""Which change helps: arms against the live pipeline, paired by query, and back from the best.

Letters in shapes: q queries.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from opengte.evaluate.significance import (
    ALPHA,
    bootstrap_interval,
    detectable_difference,
    randomisation_p,
)
from opengte.review.arms import Arm
from opengte.review.judgments import JudgedQuery
from opengte.review.pipeline import Pipeline, comparable
from opengte.review.replay import Replay

Values = npt.NDArray[np.float64]

LEAST_GAIN = 0.02  # of nDCG: less is not worth a step
RESAMPLES = 4_999
BLOCK = 20  # queries between looks at whether an arm is hopeless
HOPELESS = 0.99  # level of the interval that must be below the least gain
WORDED = ("weights", "fusion", "language")  # factors for which known items are no judges
TUNING = 0.1  # weight in Holm's method of what tunes, beside what mends
STEPS = 4  # factors that are combined, at most


@dataclass(frozen=True)
class Judged:
    """An arm against the pipeline it starts from: per-query gains (q,), their mean and interval.

    p is by randomisation, corrected by Holm over all arms; detectable the smallest gain that so
    many queries show with power 0.8. early: it was stopped, for it could not help.
    """

    arm: Arm
    gains: Values
    gain: float
    low: float
    high: float
    p: float
    detectable: float | None
    mends: int
    breaks: int
    early: bool = False


@dataclass(frozen=True)
class ChosenStep:
    """A step: what it brings alone, after all others, and halfway; interval of the last.

    interacts: alone and after the others it brings something else.
    """

    alone: Judged
    last: Judged
    expected: float
    low: float
    high: float
    interacts: bool
    same: tuple[Judged, ...] = ()  # arms of other factors that mend the same


@dataclass(frozen=True)
class Attribution:
    """Steps, best first; all arms from the live pipeline; arms that there was no time for."""

    live: Pipeline
    best: Pipeline
    steps: tuple[ChosenStep, ...]
    arms: tuple[Judged, ...]
    untried: tuple[tuple[Arm, str], ...]
    quality: float
    failed: int
    queries: int


@dataclass
class Attributor:
    """Compares arms on queries."""

    replay: Replay
    queries: Sequence[JudgedQuery]
    deadline: float | None = None
    cost: Callable[[Arm], float] = lambda arm: 0.0
    least_gain: float = LEAST_GAIN
    notify: Callable[[str], object] = lambda name: None
    untried: dict[str, tuple[Arm, str]] = field(default_factory=dict)

    def run(self, live: Pipeline, arms: Sequence[Arm]) -> Attribution:
        """Return which arms help, alone and together."""
        first = self._all(live, arms)
        chosen: list[Judged] = []
        current, found = live, first
        while len(chosen) < STEPS and (best := self._best(found)) is not None:
            chosen.append(best)
            current = best.arm.change(current)
            taken = {one.arm.factor for one in chosen}
            left = [arm for arm in arms if arm.factor not in taken]
            found = self._all(current, left)
        by_name = {one.arm.name: one for one in first}
        steps = [self._step(by_name[one.arm.name], chosen, live, current) for one in chosen]
        if steps:
            taken = {one.arm.factor for one in chosen}
            others = [x for x in first if self.helps(x) and x.arm.factor not in taken]
            steps[0] = replace(steps[0], same=tuple(others))
        values = [self.replay.quality(live, one) for one in self.queries]
        return Attribution(
            live=live,
            best=current,
            steps=tuple(steps),
            arms=tuple(sorted(first, key=lambda one: -one.gain)),
            untried=tuple(self.untried.values()),
            quality=float(np.mean(values)),
            failed=sum(value == 0 for value in values),
            queries=len(values),
        )

    def helps(self, one: Judged) -> bool:
        """Return whether a gain is real and worth a step."""
        return one.p <= ALPHA and one.gain >= self.least_gain

    def _all(self, start: Pipeline, arms: Sequence[Arm]) -> list[Judged]:
        found = [one for arm in arms if (one := self._compare(start, arm)) is not None]
        corrected = corrected_p(
            [(x.arm.name, x.p, x.gains, TUNING if x.arm.tunes else 1.0) for x in found]
        )
        return [replace(one, p=corrected[one.arm.name]) for one in found]

    def _best(self, found: Sequence[Judged]) -> Judged | None:
        """Return the arm that helps most; of those of its factor that do as well, the simplest."""
        good = [one for one in found if self.helps(one)]
        if not good:
            return None
        best = max(good, key=lambda one: one.gain)
        for one in good:  # in the order of the arms: simpler first
            if one.arm.factor == best.arm.factor and _as_good(one, best):
                return one
        return best

    def _compare(self, start: Pipeline, arm: Arm) -> Judged | None:
        """Return what an arm brings; None where it changes nothing, or there is no time for it."""
        changed = arm.change(start)
        if changed == start or arm.name in self.untried:
            return None
        if self.deadline is not None:
            needed, left = self.cost(arm), self.deadline - time.monotonic()
            if needed > left:
                reason = f"needs about {needed:,.0f} s, and {max(0.0, left):,.0f} s are left"
                self.untried[arm.name] = arm, reason
                return None
        self.notify(arm.name)
        before, after = comparable(start, changed)
        early, pairs = False, list[tuple[float, float]]()
        queries = _fair(arm, self.queries)
        for number, query in enumerate(queries):
            replay = self.replay
            pairs.append((replay.quality(before, query), replay.quality(after, query)))
            look = arm.reads is not None and number % BLOCK == BLOCK - 1 and number > 2 * BLOCK - 2
            if look and self._is_hopeless(pairs) and number + 1 < len(queries):
                early = True
                break
        return _judged(arm, np.array(pairs), early=early)

    def _is_hopeless(self, pairs: Sequence[tuple[float, float]]) -> bool:
        """Return whether what was seen rules out a gain that is worth a step.

        Only hopeless arms end early: ending when an arm looks good would let chance decide.
        """
        gains = np.array([b - a for a, b in pairs])
        if not gains.any():
            return False
        return bootstrap_interval(gains, resamples=999, level=HOPELESS)[1] < self.least_gain

    def _step(
        self, alone: Judged, chosen: Sequence[Judged], live: Pipeline, best: Pipeline
    ) -> ChosenStep:
        """Return a step with what it brings in both directions."""
        without = live
        for one in chosen:
            if one.arm.name != alone.arm.name:
                without = one.arm.change(without)
        before, after = comparable(without, best)
        pairs = [
            (self.replay.quality(before, q), self.replay.quality(after, q))
            for q in _fair(alone.arm, self.queries)
        ]
        last = _judged(alone.arm, np.array(pairs))
        if len(chosen) == 1:
            last = alone
        size = min(len(alone.gains), len(last.gains))
        a, b = alone.gains[:size], last.gains[:size]
        middle = (a + b) / 2
        low, high = bootstrap_interval(middle, resamples=RESAMPLES)
        interacts = len(chosen) > 1 and randomisation_p(b - a, resamples=RESAMPLES) <= ALPHA
        return ChosenStep(alone, last, float(middle.mean()), low, high, interacts)


def corrected_p(found: Sequence[tuple[str, float, Values, float]]) -> dict[str, float]:
    """Return p-values corrected by Holm with weights, given name, p, gains (q,) and weight.

    An arm that changes so few queries that no pattern of signs could be significant is no test, and
    does not count among them (Tarone 1990); its p is 1. With equal weights this is Holm's method.
    """
    least = {name: 2.0 ** (1 - np.count_nonzero(gains)) for name, _, gains, _ in found}
    count = 1
    while sum(p <= ALPHA / count for p in least.values()) > count:
        count += 1
    tested = [(p, w, name) for name, p, _, w in found if least[name] <= ALPHA / count]
    left, worst = sum(w for _, w, _ in tested), 0.0
    corrected = {name: 1.0 for name, _, _, _ in found}
    for p, weight, name in sorted(tested, key=lambda one: one[0] / one[1]):
        worst = max(worst, min(1.0, p * left / weight))
        corrected[name] = worst
        left -= weight
    return corrected


def _fair(arm: Arm, queries: Sequence[JudgedQuery]) -> Sequence[JudgedQuery]:
    """Return the queries by which an arm can be judged.

    Known items have the words of their documents: they would always vote for words.
    """
    if arm.factor not in WORDED:
        return queries
    return [one for one in queries if one.origin != "known item"] or queries


def _judged(arm: Arm, pairs: Values, *, early: bool = False) -> Judged:
    gains = pairs[:, 1] - pairs[:, 0]
    low, high = bootstrap_interval(gains, resamples=RESAMPLES)
    return Judged(
        arm=arm,
        gains=gains,
        gain=float(gains.mean()),
        low=low,
        high=high,
        p=randomisation_p(gains, resamples=RESAMPLES),
        detectable=detectable_difference(gains),
        mends=int(np.count_nonzero((pairs[:, 0] == 0) & (pairs[:, 1] > 0))),
        breaks=int(np.count_nonzero((pairs[:, 0] > 0) & (pairs[:, 1] == 0))),
        early=early,
    )


def _as_good(one: Judged, best: Judged) -> bool:
    """Return whether an arm cannot be told from the best one."""
    if one is best:
        return True
    size = min(len(one.gains), len(best.gains))
    lost = best.gains[:size] - one.gains[:size]
    close = float(lost.mean()) <= max(0.01, 0.1 * best.gain)
    return close and randomisation_p(lost, resamples=999) > ALPHA
