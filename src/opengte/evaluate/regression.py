"""Detect regressions of quality between two results, for continuous integration."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opengte.errors import InputError
from opengte.evaluate import records
from opengte.evaluate.significance import ALPHA, paired_test


@dataclass(frozen=True)
class ScoreChange:
    """One score, before and now, in points; now is None where it is missing.

    allowed is how much it may fall; p is there where both runs have values for each query.
    """

    name: str
    before: float
    now: float | None
    allowed: float
    p: float | None = None

    @property
    def fell(self) -> bool:
        """Return whether the score is missing, or fell by more than noise and tolerance."""
        if self.now is None:
            return True
        far = self.before - self.now > self.allowed
        return far and (self.p is None or self.p < ALPHA)


def compare_results(now: Path, baseline: Path, tolerance: float = 0.0) -> list[ScoreChange]:
    """Compare two result files of `gte eval`: run records of MTEB, or JSON reports.

    A score on MTEB may fall by its noise or the tolerance, whichever is larger; one on own data by
    the tolerance, and by more only if a paired randomisation test finds no difference. tolerance is
    in points. Raises InputError for files of different kinds, queries or without scores.

    >>> values = {"nDCG@10": {"q1": 0.5, "q2": 0.7}}
    >>> report = {"data": {"measure": "nDCG@10", "systems": [{"label": "a", "measures": values}]}}
    >>> records.write_json_file(Path("now.json"), report)
    >>> [change.fell for change in compare_results(Path("now.json"), Path("now.json"))]
    [False]
    """
    if tolerance < 0:
        raise InputError(f"tolerance is {tolerance}, expected points, 0 or more")
    old, new = _read(baseline), _read(now)
    if type(old) is not type(new):
        raise InputError(f"`{baseline}` and `{now}` are results of different kinds")
    if isinstance(old, records.MtebRun) and isinstance(new, records.MtebRun):
        changes = _runs(old, new, tolerance)
    else:
        assert isinstance(old, dict) and isinstance(new, dict)
        changes = _systems(old, new, tolerance)
    if not changes:
        raise InputError(f"`{baseline}` has no scores to compare with")
    return changes


def regression_verdict(changes: list[ScoreChange]) -> str:
    """Return the outcome in a sentence.

    >>> changes = [ScoreChange("nDCG@10", before=60.0, now=55.0, allowed=1.0)]
    >>> regression_verdict(changes)
    '1 of 1 scores fell by more than noise: nDCG@10.'
    """
    fallen = [change for change in changes if change.fell]
    if not fallen:
        return f"None of {len(changes)} scores fell by more than noise."
    names = ", ".join(change.name for change in fallen)
    return f"{len(fallen)} of {len(changes)} scores fell by more than noise: {names}."


def _read(path: Path) -> records.MtebRun | dict[str, Any]:
    """Return a run on MTEB, or the systems of a report on own data."""
    value = records.read_json_file(path)
    data = value.get("data") if isinstance(value, dict) else None
    if isinstance(data, dict) and "systems" in data:
        return data
    if isinstance(data, dict) and "run" in data:
        value = {"format": records.FORMAT, **data["run"]}
    return records.parse_run(value, path)


def _runs(old: records.MtebRun, new: records.MtebRun, tolerance: float) -> list[ScoreChange]:
    found = {(s.task, s.subset, s.split): s for s in new.scores}
    changes = []
    for score in old.scores:
        other = found.get((score.task, score.subset, score.split))
        noise = max(score.noise, other.noise) if other else score.noise
        name = " ".join([score.task, score.subset, score.split])
        value = None if other is None else other.value
        changes.append(ScoreChange(name, score.value, value, max(noise, tolerance)))
    return changes


def _systems(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> list[ScoreChange]:
    measure = old["measure"]
    found = {system["label"]: system for system in new["systems"]}
    changes = []
    for system in old["systems"]:
        before, name = system["measures"][measure], f"{system['label']} {measure}"
        other = found.get(system["label"])
        if other is None:
            changes.append(ScoreChange(name, _mean(before), None, tolerance))
            continue
        now = other["measures"][measure]
        if before.keys() != now.keys():
            raise InputError(
                f"{name}: the two results answer different queries ({len(before)} and {len(now)}); "
                "compare runs on the same data"
            )
        result = paired_test([before[q] for q in before], [now[q] for q in before])
        changes.append(ScoreChange(name, _mean(before), _mean(now), tolerance, result.p))
    return changes


def _mean(values: Mapping[str, float]) -> float:
    return 100 * sum(values.values()) / len(values)
