"""`gte eval run`: tasks of MTEB, beside the published scores."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import errors, output
from opengte.cli.common.options import ModelOptions, combine_options, json_option
from opengte.cli.common.progress import progress_bar
from opengte.cli.evaluate.options import (
    checked_reports,
    dimensions_option,
    model_argument,
    split_names,
    table_cells,
    truncation_option,
    write_reports,
)

if TYPE_CHECKING:
    from opengte.evaluate.mteb_run import Model, RunCallbacks, TaskSelection
    from opengte.evaluate.records import MtebRun, TaskRun


@click.command("run", no_args_is_help=True)
@click.option("--tasks", metavar="NAMES", help="Comma-separated names of MTEB tasks.")
@click.option(
    "--suite",
    "suite_name",
    metavar="NAME",
    help="Benchmark suite: mteb-english-56, c-mteb-35, ..., or one that mteb defines.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of datasets, searched before the Hub. Without --tasks and --suite, all "
    "its tasks are run.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("gte-eval"),
    show_default=True,
    help="Folder for results; an interrupted run resumes from it.",
)
@combine_options(dimensions_option, truncation_option, json_option)
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
    """Run MTEB tasks with mteb's own scoring; compare published scores.

    \b
    Examples:
      gte eval run minilm --data mteb-data/ --output results/minilm --report minilm.html
      gte eval run Alibaba-NLP/gte-multilingual-base --suite mteb-fr-26
    """
    from opengte.evaluate import mteb_report, mteb_run, suites

    ours = suite_name is not None and suite_name.lower() in suites.suite_names()
    suite = suites.load_suite(suite_name) if suite_name and ours else None
    if options.offline:
        mteb_run.disable_hub()
    wanted = _wanted(tasks, suite_name, data)
    mteb_run.check_task_names(item.task for item in wanted)
    model = _model(options, dimensions, truncation)
    folder = output / _folder_name(model)
    hub = not options.offline
    run = mteb_run.run_tasks(model, wanted, folder, data=data, hub=hub, watch=_watch(model))
    _print_run(run, as_json)
    write_reports(reports, mteb_report.mteb_run_report(run, suite))
    click.echo(f"results in {folder}", err=True)
    if not any(task.ran for task in run.tasks):
        raise click.exceptions.Exit(errors.FAILED)


def _wanted(tasks: str | None, suite_name: str | None, data: Path | None) -> "list[TaskSelection]":
    """Return the selected tasks: by name, by suite, or all tasks of a folder."""
    from opengte.evaluate import mteb_local, mteb_run
    from opengte.evaluate.mteb_folders import LAYOUT

    wanted = [mteb_run.TaskSelection(name) for name in split_names(tasks)]
    if suite_name:
        wanted += mteb_run.suite_selection(suite_name)
    if not wanted and data is not None:
        wanted = [mteb_run.TaskSelection(name) for name in mteb_local.local_tasks(data)]
        if not wanted:
            raise click.UsageError(f"`{data}` has no dataset; expected {LAYOUT}.")
    if not wanted:
        raise click.UsageError("Give --tasks, --suite, or --data with a folder of datasets.")
    return wanted


def _model(options: ModelOptions, dimensions: int | None, truncation: str) -> "Model":
    """Load an encoder or a reranker for mteb."""
    from opengte import checkpoint
    from opengte.evaluate import mteb_run
    from opengte.evaluate.cached_encoder import CachedEncoder
    from opengte.evaluate.mteb_adapter import EncoderForMteb, RerankerForMteb

    mteb_run.require_mteb()
    where = {"revision": options.revision, "offline": options.offline}
    if checkpoint.read_checkpoint(options.name, **where).kind == "reranker":  # type: ignore[arg-type]
        return RerankerForMteb(options.load_reranker())
    side: Any = truncation
    return EncoderForMteb(
        CachedEncoder(options.load_encoder(), dimensions=dimensions, truncation=side)
    )


def _folder_name(model: "Model") -> str:
    meta = model.mteb_model_meta
    return f"{meta.name.replace('/', '__')}-{meta.revision[:8]}{meta.revision[32:]}"


def _watch(model: "Model") -> "RunCallbacks":
    """Return callbacks that show a bar per task, and a line when it ends."""
    from opengte.evaluate.mteb_adapter import EncoderForMteb
    from opengte.evaluate.mteb_run import RunCallbacks

    bars = ExitStack()
    update: list[Callable[[int], None]] = []

    def advance(count: int) -> None:
        for bar in update:
            bar(count)

    def begin(task: str, place: int, tasks: int, texts: int) -> None:
        bar = progress_bar(" texts", total=texts or None, label=f"{task} ({place} of {tasks})")
        update.append(bars.enter_context(bar))

    def end(task: "TaskRun") -> None:
        bars.close()
        update.clear()
        click.echo(_line(task), err=True)

    if isinstance(model, EncoderForMteb):
        model.encoder.advance = advance
    else:
        model.advance = advance
    return RunCallbacks(begin, end)


def _line(task: "TaskRun") -> str:
    if not task.ran:
        return f"{task.task}: not run: {task.reason}"
    mean = sum(score.value for score in task.scores) / max(1, len(task.scores))
    speed = task.tokens / task.encoding_seconds if task.encoding_seconds else 0
    cut = f", {task.truncated:,} texts truncated" if task.truncated else ""
    kept = " (from an earlier run)" if task.status == "kept" else ""
    return (
        f"{task.task}: {mean:.2f}{kept}, {task.seconds:,.1f} s, {task.tokens:,} tokens, "
        f"{speed:,.0f} tokens/s{cut}"
    )


def _print_run(run: "MtebRun", as_json: bool) -> None:
    from dataclasses import asdict

    from opengte.evaluate import mteb_report, published

    rows = published.compare_with_published(run.model, run.scores)
    if as_json:
        for row in rows:
            differs = {"difference": row.difference, "differs": row.differs}
            output.print_json({"model": run.model, **asdict(row), **differs})
    else:
        output.print_table(
            mteb_report.HEADER, [table_cells(row) for row in mteb_report.score_table(rows).rows]
        )
        click.echo(mteb_report.mteb_run_verdict(rows, run))
