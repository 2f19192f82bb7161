"""`gte eval`: published benchmarks, and decisions on one's own data."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli import failures, show
from opengte.cli.options import Function, ModelOptions, _run_options, gathered, json_option, stacked

if TYPE_CHECKING:
    from tqdm import tqdm

    from opengte.evaluate.mteb_run import Model, Wanted, Watch
    from opengte.evaluate.records import Run, TaskRun
    from opengte.evaluate.report import Report


class _Evaluations(click.Group):
    """A group that takes a model where the name of a subcommand could stand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `gte eval MODEL ...` as `gte eval run MODEL ...`."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("eval", cls=_Evaluations, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Measure models: on MTEB, and on your own data.

    `gte eval MODEL` is short for `gte eval run MODEL`.

    \b
    Examples:
      gte eval minilm --tasks STSBenchmark,SciFact
      gte eval minilm --data mteb-data/ --report report.html
      gte eval compare minilm thenlper/gte-small --data my-beir-folder/
    """


model_argument = gathered(ModelOptions, "options", click.argument("model"), _run_options)

dimensions_option = click.option(
    "--dimensions", type=click.IntRange(1), metavar="N", help="Keep the first N dimensions."
)
truncation_option = click.option(
    "--truncation",
    type=click.Choice(["right", "left", "error"]),
    default="right",
    show_default=True,
    help="Which end of a text that is too long is cut off.",
)
report_option = click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a report: .html, .md or .json; may be given again.",
)


def checked_reports(function: Function) -> Function:
    """Add `--report`, and check the names before any work begins."""

    @report_option
    @functools.wraps(function)
    def wrapper(reports: tuple[Path, ...], **values: Any) -> Any:
        from opengte.evaluate import report

        for path in reports:
            report.check_path(path)
        return function(reports=reports, **values)

    return wrapper


def _write(reports: tuple[Path, ...], made: "Report") -> None:
    from opengte.evaluate import report

    for path in reports:
        report.write(made, path)
        click.echo(f"wrote {path}", err=True)


@command.command("run", no_args_is_help=True)
@click.option("--tasks", metavar="NAMES", help="Names of mteb tasks, with commas between.")
@click.option("--suite", "suite_name", metavar="NAME", help="mteb-english-56, c-mteb-35, ...")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of datasets, asked before the Hub. Alone: every task that it has.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("gte-eval"),
    show_default=True,
    help="Where results go; a run that was stopped goes on from there.",
)
@stacked(dimensions_option, truncation_option, json_option)
@checked_reports
@model_argument
def run_command(
    options: ModelOptions,
    tasks: str | None,
    suite_name: str | None,
    data: Path | None,
    output: Path,
    dimensions: int | None,
    truncation: str,
    as_json: bool,
    reports: tuple[Path, ...],
) -> None:
    """Run tasks of MTEB with mteb's own scoring, beside the published scores.

    \b
    Examples:
      gte eval minilm --data mteb-data/ --output results/minilm --report minilm.html
      gte eval Alibaba-NLP/gte-multilingual-base --suite mteb-fr-26
    """
    from opengte.evaluate import mteb_report, mteb_run, suites

    suite = suites.suite(suite_name) if suite_name else None
    if options.offline:
        mteb_run.leave_hub_alone()
    wanted = _wanted(tasks, suite_name, data)
    mteb_run.check_names(item.task for item in wanted)
    model = _model(options, dimensions, truncation)
    folder = output / _folder_name(model)
    hub = not options.offline
    run = mteb_run.run(model, wanted, folder, data=data, hub=hub, watch=_watch(model))
    _print_run(run, as_json)
    _write(reports, mteb_report.report(run, suite))
    click.echo(f"results in {folder}", err=True)
    if not any(task.ran for task in run.tasks):
        raise click.exceptions.Exit(failures.FAILED)


def _wanted(tasks: str | None, suite_name: str | None, data: Path | None) -> "list[Wanted]":
    """Return the tasks that were asked for: by name, by suite, or all that a folder has."""
    from opengte.evaluate import mteb_local, mteb_run, suites

    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    wanted = [mteb_run.Wanted(name) for name in names]
    if suite_name:
        wanted += [
            mteb_run.Wanted(task.task, (task.subset,), (task.split,))
            for task in suites.suite(suite_name).tasks
        ]
    if not wanted and data is not None:
        wanted = [mteb_run.Wanted(name) for name in mteb_local.available(data)]
    if not wanted:
        raise click.UsageError("Give --tasks, --suite, or --data with a folder of datasets.")
    return wanted


def _model(options: ModelOptions, dimensions: int | None, truncation: str) -> "Model":
    """Load an encoder or a reranker for mteb."""
    from opengte import checkpoint
    from opengte.evaluate import mteb_run
    from opengte.evaluate.mteb_adapter import EncoderForMteb, RerankerForMteb
    from opengte.evaluate.work import Worker

    mteb_run.require()
    where = {"revision": options.revision, "offline": options.offline}
    if checkpoint.read(options.name, **where).kind == "reranker":  # type: ignore[arg-type]
        return RerankerForMteb(options.load_reranker())
    side: Any = truncation
    return EncoderForMteb(Worker(options.load_encoder(), dimensions=dimensions, truncation=side))


def _folder_name(model: "Model") -> str:
    meta = model.mteb_model_meta
    return f"{meta.name.replace('/', '__')}-{meta.revision[:8]}{meta.revision[32:]}"


def _watch(model: "Model") -> "Watch":
    """Return a watch that shows a bar a task and a line when it ended."""
    from opengte.evaluate.mteb_adapter import EncoderForMteb
    from opengte.evaluate.mteb_run import Watch

    bars: list[tqdm[Any]] = []

    def advance(count: int) -> None:
        for bar in bars:
            bar.update(count)

    def begin(task: str, place: int, tasks: int, texts: int) -> None:
        bars.append(_bar(f"{task} ({place} of {tasks})", texts))

    def end(task: "TaskRun") -> None:
        while bars:
            bars.pop().close()
        click.echo(_line(task), err=True)

    if isinstance(model, EncoderForMteb):
        model.worker.advance = advance
    else:
        model.advance = advance
    return Watch(begin, end)


def _bar(label: str, total: int) -> "tqdm[Any]":
    from tqdm import tqdm

    return tqdm(
        total=total or None, desc=label, unit=" texts", disable=None, leave=False, file=sys.stderr
    )


def _line(task: "TaskRun") -> str:
    if not task.ran:
        return f"{task.task}: not run: {task.reason}"
    mean = sum(score.value for score in task.scores) / max(1, len(task.scores))
    speed = task.tokens / task.encoding_seconds if task.encoding_seconds else 0
    cut = f", {task.truncated:,} texts truncated" if task.truncated else ""
    kept = " (kept from an earlier run)" if task.status == "kept" else ""
    return (
        f"{task.task}: {mean:.2f}{kept}, {task.seconds:,.1f} s, {task.tokens:,} tokens, "
        f"{speed:,.0f} tokens/s{cut}"
    )


def _print_run(run: "Run", as_json: bool) -> None:
    from dataclasses import asdict

    from opengte.evaluate import mteb_report, published

    rows = published.beside(run.model, run.scores)
    if as_json:
        for row in rows:
            differs = {"difference": row.difference, "differs": row.differs}
            show.json_line({"model": run.model, **asdict(row), **differs})
    else:
        show.table(mteb_report.HEADER, [_cells(row) for row in mteb_report.table(rows).rows])
        click.echo(mteb_report.verdict(rows, run))


def _cells(row: Any) -> list[object]:
    return [f"{cell:8.2f}" if isinstance(cell, float) else cell for cell in row]
