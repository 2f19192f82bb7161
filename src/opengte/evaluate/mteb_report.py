"""The report of a run on MTEB: measured and published scores, averages, skipped tasks."""

from dataclasses import asdict

from opengte.evaluate import published, suites
from opengte.evaluate.published import ScoreComparison
from opengte.evaluate.records import MtebRun, TaskRun, run_totals
from opengte.evaluate.report import Cell, EvaluationReport, ReportSection, ReportTable
from opengte.evaluate.suites import BenchmarkSuite
from opengte.svg import Interval, interval_plot

HEADER = ("task", "split", "ours", "published", "difference", "noise", "of", "")


def mteb_run_report(run: MtebRun, suite: BenchmarkSuite | None = None) -> EvaluationReport:
    """Return the report of a run, with a suite's averages if one was run."""
    rows = published.compare_with_published(run.model, run.scores)
    sections = [
        _scores(rows, run),
        *_by_suite(run, suite),
        *_not_run(run),
        _subsets(run),
        _cost(run),
    ]
    return EvaluationReport(
        title=f"{run.model} on MTEB",
        verdict=mteb_run_verdict(rows, run),
        sections=sections,
        facts=run_facts(run),
        data={"run": asdict(run), "published": [asdict(row) for row in rows]},
    )


def mteb_run_verdict(rows: list[ScoreComparison], run: MtebRun) -> str:
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


def score_table(rows: list[ScoreComparison]) -> ReportTable:
    """Return ours beside published, the rows that differ by more than noise marked."""
    strong = frozenset(place for place, row in enumerate(rows) if row.differs)
    return ReportTable(HEADER, [_row(row) for row in rows], strong)


def _row(row: ScoreComparison) -> tuple[Cell, ...]:
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


def _scores(rows: list[ScoreComparison], run: MtebRun) -> ReportSection:
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
    return ReportSection("Scores", text, plot, [score_table(rows)])


def _by_suite(run: MtebRun, suite: BenchmarkSuite | None) -> list[ReportSection]:
    if suite is None:
        return []
    ours, theirs = suites.suite_averages(suite, run.scores), suite.averages.get(run.model, {})
    lines = [
        (
            name,
            mean,
            theirs.get(name),
            f"{found} of {there}" + " (not comparable)" * (found < there),
        )
        for name, (mean, found, there) in ours.items()
    ]
    text = f"Categories and averages as in {suite.paper}. {suite_differences(suite)}"
    return [
        ReportSection(
            suite.title, text, tables=[ReportTable(("", "ours", "published", "tasks"), lines)]
        )
    ]


def suite_differences(suite: BenchmarkSuite) -> str:
    """Return how mteb's suite of today differs from the paper's, in sentences."""
    reasons: dict[str, list[str]] = {}
    for task in suite.tasks:
        if task.missing:
            reasons.setdefault(task.missing, []).append(task.name)
    parts = [f"{', '.join(names)}: {reason}." for reason, names in reasons.items()]
    if suite.added:
        parts.append(
            f"{suite.mteb} has {', '.join(suite.added)} in addition, which the paper does not have."
        )
    return " ".join(parts) or f"{suite.mteb} has the same tasks."


def _not_run(run: MtebRun) -> list[ReportSection]:
    missing = [(task.task, task.reason) for task in run.tasks if not task.ran]
    return (
        [ReportSection("Not run", tables=[ReportTable(("task", "why"), missing)])]
        if missing
        else []
    )


def _subsets(run: MtebRun) -> ReportSection:
    theirs = published.published_scores(run.model)
    rows: list[tuple[Cell, ...]] = []
    for score in run.scores:
        other = theirs.get((score.task, score.subset, score.split))
        difference = None if other is None else score.value - other
        rows.append(
            (score.task, score.subset, score.split, score.metric, score.value, other, difference)
        )
    header = ("task", "subset", "split", "metric", "ours", "published", "difference")
    return ReportSection("Every subset", tables=[ReportTable(header, rows)], folded=True)


def _cost(run: MtebRun) -> ReportSection:
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
    return ReportSection(
        "Time and truncation", tables=[ReportTable(header, rows, digits=1)], folded=True
    )


def _cost_row(task: TaskRun) -> tuple[Cell, ...]:
    speed = task.tokens / task.encoding_seconds if task.encoding_seconds else 0.0
    seconds = (task.seconds, task.encoding_seconds, task.scoring_seconds)
    return (task.task, *seconds, task.texts, task.encoded, task.tokens, speed, task.truncated)


def run_facts(run: MtebRun) -> dict[str, Cell]:
    """Return who, how and how long."""
    sums = run_totals(run.tasks)
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
