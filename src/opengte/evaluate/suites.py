"""Benchmark suites as published: tasks by category, averages, and differences from mteb."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from opengte.errors import InputError
from opengte.evaluate.records import TaskScore


@dataclass(frozen=True)
class SuiteTask:
    """One row of a paper's table: its name there, and the task, subset and split in mteb.

    missing says why mteb's suite of the same name no longer has it; empty: it has.
    """

    category: str
    name: str
    task: str
    subset: str
    split: str
    missing: str = ""


@dataclass(frozen=True)
class BenchmarkSuite:
    """A benchmark: its tasks, and published averages as model -> category -> points."""

    name: str
    title: str
    paper: str
    mteb: str  # mteb's suite that comes nearest
    added: tuple[str, ...]  # tasks of that suite that the paper did not have
    tasks: tuple[SuiteTask, ...]
    averages: Mapping[str, Mapping[str, float]]

    @property
    def categories(self) -> tuple[str, ...]:
        """Return the categories in the paper's order."""
        return tuple(dict.fromkeys(task.category for task in self.tasks))


def suite_names() -> tuple[str, ...]:
    """Return the names of the suites.

    >>> suite_names()
    ('mteb-english-56', 'c-mteb-35', 'mteb-fr-26', 'mteb-pl-26')
    """
    return tuple(_suites())


def load_suite(name: str) -> BenchmarkSuite:
    """Return a suite; InputError with the nearest names for an unknown one.

    >>> len(load_suite("mteb-english-56").tasks)
    56
    """
    found = _suites().get(name.lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), suite_names(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"there is no suite {name!r}, expected one of {', '.join(suite_names())}.{hint}"
        )
    return found


def suite_averages(
    which: BenchmarkSuite, scores: Iterable[TaskScore]
) -> dict[str, tuple[float | None, int, int]]:
    """Return per category and for the whole: the mean in points, tasks found, tasks there are.

    A mean over fewer tasks than there are is not comparable to a published one.

    >>> suite_averages(load_suite("mteb-fr-26"), [])["Average"]
    (None, 0, 26)
    """
    found = {(score.task, score.subset, score.split): score.value for score in scores}
    parts: dict[str, list[float]] = {category: [] for category in which.categories}
    for task in which.tasks:
        value = found.get((task.task, task.subset, task.split))
        if value is not None:
            parts[task.category].append(value)
    everything = [value for values in parts.values() for value in values]
    sizes = {name: sum(task.category == name for task in which.tasks) for name in parts}
    result = {name: (_mean(values), len(values), sizes[name]) for name, values in parts.items()}
    return {"Average": (_mean(everything), len(everything), len(which.tasks)), **result}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


@cache
def _suites() -> dict[str, BenchmarkSuite]:
    text = (files(__package__) / "suites.json").read_text(encoding="utf-8")
    return {
        name: BenchmarkSuite(
            name=name,
            title=entry["title"],
            paper=entry["paper"],
            mteb=entry["mteb"],
            added=tuple(entry["added"]),
            tasks=tuple(SuiteTask(**task) for task in entry["tasks"]),
            averages=entry["averages"],
        )
        for name, entry in json.loads(text)["suites"].items()
    }
