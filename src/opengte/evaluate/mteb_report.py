"""What a run on MTEB says: ours beside the published scores, averages, what did not run."""

from dataclasses import asdict

from opengte.evaluate import published, suites
from opengte.evaluate.published import Beside
from opengte.evaluate.records import Run, TaskRun, total
from opengte.evaluate.report import Cell, Report, Section, Table
from opengte.evaluate.suites import Suite
from opengte.svg import Interval, interval_plot

HEADER = ("task", "split", "ours", "published", "difference", "noise", "of", "")


def report(run: Run, suite: Suite | None = None) -> Report:
    """Return the report of a run, with a suite's averages if one was run."""
    rows = published.beside(run.model, run.scores)
    sections = [
        _scores(rows, run),
        *_by_suite(run, suite),
        *_not_run(run),
        _subsets(run),
        _cost(run),
    ]
    return Report(
        title=f"{run.model} on MTEB",
        verdict=verdict(rows, run),
        sections=sections,
        facts=facts(run),
        data={"run": asdict(run), "published": [asdict(row) for row in rows]},
    )


def verdict(rows: list[Beside], run: Run) -> str:
    """Return the outcome in two sentences."""
    compared = [row for row in rows if row.published is not None]
    beyond = [row for row in compared if row.differs]
    missing = [task for task in run.tasks if not task.ran]
    parts = [f"{len(run.tasks) - len(missing)} of {len(run.tasks)} tasks were run."]
    if compared:
        same = len(compared) - len(beyond)
        parts.append(
            f"{same} of {len(compared)} scores that have a published counterpart agree with it "
            "within the task's noise."
        )
    if beyond:
        names = ", ".join(f"{row.task} ({row.difference:+.2f})" for row in beyond)
        parts.append(f"Beyond noise: {names}.")
    return " ".join(parts)


def table(rows: list[Beside]) -> Table:
    """Return ours beside published, the rows that differ by more than noise marked."""
    strong = frozenset(place for place, row in enumerate(rows) if row.differs)
    return Table(HEADER, [_row(row) for row in rows], strong)


def _row(row: Beside) -> tuple[Cell, ...]:
    notes = ["beyond noise"] * row.differs + ["sampled"] * row.sampled
    notes += [f"{row.extra} more not published"] * bool(row.extra and row.published is not None)
    return (
        row.task,
        row.split,
        row.ours,
        row.published,
        row.difference,
        row.noise,
        row.count,
        ", ".join(notes),
    )


def _scores(rows: list[Beside], run: Run) -> Section:
    plot = interval_plot(
        [
            Interval(f"{row.task} {row.split}", row.difference, -row.noise, row.noise)
            for row in rows
            if row.difference is not None
        ],
        "ours minus published, points; bars: noise",
        noise_only=True,
    )
    text = (
        "Points; `of` counts the languages or subsets averaged. A sampled task draws its examples "
        "or starting points, so that honest runs differ; noise is twice the standard error of a "
        "difference of two runs."
    )
    return Section("Scores", text, plot, [table(rows)])


def _by_suite(run: Run, suite: Suite | None) -> list[Section]:
    if suite is None:
        return []
    ours, theirs = suites.averages(suite, run.scores), suite.averages.get(run.model, {})
    lines = [
        (
            name,
            mean,
            theirs.get(name),
            f"{found} of {there}" + " (not comparable)" * (found < there),
        )
        for name, (mean, found, there) in ours.items()
    ]
    text = f"Categories and averages as in {suite.paper}. {differences(suite)}"
    return [Section(suite.title, text, tables=[Table(("", "ours", "published", "tasks"), lines)])]


def differences(suite: Suite) -> str:
    """Return how mteb's suite of today differs from the paper's, in sentences."""
    reasons: dict[str, list[str]] = {}
    for task in suite.tasks:
        if task.missing:
            reasons.setdefault(task.missing, []).append(task.name)
    parts = [f"{', '.join(names)}: {reason}." for reason, names in reasons.items()]
    if suite.added:
        parts.append(f"{suite.mteb} has {', '.join(suite.added)} besides, which the paper has not.")
    return " ".join(parts) or f"{suite.mteb} has the same tasks."


def _not_run(run: Run) -> list[Section]:
    missing = [(task.task, task.reason) for task in run.tasks if not task.ran]
    return [Section("Not run", tables=[Table(("task", "why"), missing)])] if missing else []


def _subsets(run: Run) -> Section:
    theirs = published.of(run.model)
    rows: list[tuple[Cell, ...]] = []
    for score in run.scores:
        other = theirs.get((score.task, score.subset, score.split))
        difference = None if other is None else score.value - other
        rows.append(
            (score.task, score.subset, score.split, score.metric, score.value, other, difference)
        )
    header = ("task", "subset", "split", "metric", "ours", "published", "difference")
    return Section("Every subset", tables=[Table(header, rows)], folded=True)


def _cost(run: Run) -> Section:
    header = (
        "task",
        "seconds",
        "encoding",
        "scoring",
        "texts",
        "encoded",
        "tokens",
        "tokens/s",
        "truncated",
    )
    rows = [_cost_row(task) for task in run.tasks if task.ran]
    return Section("Time and truncation", tables=[Table(header, rows, digits=1)], folded=True)


def _cost_row(task: TaskRun) -> tuple[Cell, ...]:
    speed = task.tokens / task.encoding_seconds if task.encoding_seconds else 0.0
    seconds = (task.seconds, task.encoding_seconds, task.scoring_seconds)
    return (task.task, *seconds, task.texts, task.encoded, task.tokens, speed, task.truncated)


def facts(run: Run) -> dict[str, Cell]:
    """Return who, how and how long."""
    sums = total(run.tasks)
    settings = {name: value for name, value in run.settings.items() if name != "versions"}
    return {
        "model": run.model,
        **settings,
        "versions": ", ".join(f"{n} {v}" for n, v in run.settings.get("versions", {}).items()),
        "seconds": round(sums.seconds, 1),
        "tokens/s": round(sums.tokens_per_second),
        "texts truncated": sums.truncated,
        "time beside encoding and scoring": f"{sums.overhead:.1%}",
        "published scores": "; ".join(published.SOURCES.values()),
    }
