"""Run records of MTEB evaluations: scores by task, subset and split, and their settings.

Scores are in points: an accuracy of 0.8004 is 80.04.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opengte.errors import InputError

RECORD = "run.json"
FORMAT = 1


@dataclass(frozen=True)
class TaskScore:
    """The main score of one split of one subset of a task, in points.

    noise is the difference to expect between two runs of one model; sampled tells that part of it
    comes from drawing examples or starting points.
    """

    task: str
    type: str
    subset: str
    split: str
    metric: str
    value: float
    noise: float
    sampled: bool


@dataclass(frozen=True)
class TaskRun:
    """The record of one task: status is `done`, `kept` (from an earlier run) or `not run`."""

    task: str
    status: str
    reason: str = ""
    scores: tuple[TaskScore, ...] = ()
    seconds: float = 0.0
    encoding_seconds: float = 0.0
    scoring_seconds: float = 0.0  # mteb's classifiers, clusterings and correlations
    texts: int = 0
    encoded: int = 0
    tokens: int = 0
    truncated: int = 0

    @property
    def ran(self) -> bool:
        """Return whether there are scores."""
        return self.status != "not run"


@dataclass(frozen=True)
class MtebRun:
    """The evaluation of one model: its settings, and one record per task."""

    model: str
    settings: Mapping[str, Any]  # fingerprint, engine, precision, dimensions, versions, data ...
    tasks: tuple[TaskRun, ...] = ()
    unfinished: str | None = None  # the task that was under way

    def with_task(self, task: TaskRun) -> "MtebRun":
        """Return the run with a task's record added or replaced."""
        others = tuple(old for old in self.tasks if old.task != task.task)
        return MtebRun(self.model, self.settings, (*others, task))

    def task(self, name: str) -> TaskRun | None:
        """Return a task's record."""
        return next((task for task in self.tasks if task.task == name), None)

    @property
    def scores(self) -> tuple[TaskScore, ...]:
        """Return all scores."""
        return tuple(score for task in self.tasks for score in task.scores)


@dataclass(frozen=True)
class RunTotals:
    """Sums over the tasks of a run."""

    seconds: float = 0.0
    encoding_seconds: float = 0.0
    scoring_seconds: float = 0.0
    tokens: int = 0
    truncated: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Return the speed of encoding."""
        return self.tokens / self.encoding_seconds if self.encoding_seconds else 0.0

    @property
    def overhead(self) -> float:
        """Return the time beside encoding and scoring, as a fraction of the encoding time."""
        rest = self.seconds - self.encoding_seconds - self.scoring_seconds
        return rest / self.encoding_seconds if self.encoding_seconds else 0.0


def run_totals(tasks: Iterable[TaskRun]) -> RunTotals:
    """Return the sums over tasks.

    >>> run_totals([]).tokens
    0
    """
    ran = [task for task in tasks if task.ran]
    return RunTotals(
        seconds=sum(task.seconds for task in ran),
        encoding_seconds=sum(task.encoding_seconds for task in ran),
        scoring_seconds=sum(task.scoring_seconds for task in ran),
        tokens=sum(task.tokens for task in ran),
        truncated=sum(task.truncated for task in ran),
    )


def write_run(path: Path, run: MtebRun) -> None:
    """Write a run in one step, so that a killed process leaves the old file or the new one.

    >>> run = MtebRun("minilm", {}, (), False)
    >>> write_run(Path("run.json"), run)
    >>> read_run(Path("run.json")) == run
    True
    """
    write_json_file(path, {"format": FORMAT, **asdict(run)})


def write_json_file(path: Path, value: Any) -> None:
    """Write JSON in one step.

    >>> write_json_file(Path("value.json"), {"a": 1})
    >>> read_json_file(Path("value.json"))
    {'a': 1}
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def read_run(path: Path) -> MtebRun:
    """Read a run; InputError where the file is missing or no run record.

    >>> run = MtebRun("minilm", {}, (), False)
    >>> write_run(Path("run.json"), run)
    >>> read_run(Path("run.json")).model
    'minilm'
    """
    return parse_run(read_json_file(path), path)


def parse_run(value: Any, path: Path) -> MtebRun:
    """Return the run in what a JSON file held; InputError where it holds none.

    >>> value = {"format": FORMAT, **asdict(MtebRun("minilm", {}, (), False))}
    >>> parse_run(value, Path("run.json")).model
    'minilm'
    """
    try:
        if value["format"] != FORMAT:
            raise InputError(f"`{path}` has the format {value['format']!r}, expected {FORMAT}")
        tasks = [
            TaskRun(**{**task, "scores": tuple(TaskScore(**score) for score in task["scores"])})
            for task in value["tasks"]
        ]
        return MtebRun(value["model"], value["settings"], tuple(tasks), value["unfinished"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"`{path}` is not a run record ({error!r}): expected the {RECORD} of an output folder "
            "of `gte eval`, or a JSON report"
        ) from None


def read_json_file(path: Path) -> Any:
    """Read JSON; InputError says what is wrong with the file.

    >>> write_json_file(Path("value.json"), [1, 2])
    >>> read_json_file(Path("value.json"))
    [1, 2]
    """
    if not path.is_file():
        raise InputError(f"`{path}` does not exist: expected a JSON file that `gte eval` wrote")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"`{path}` is not JSON: {error}") from None
