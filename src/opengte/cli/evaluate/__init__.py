"""`gte eval`: published benchmarks, and decisions on one's own data."""

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import errors
from opengte.cli.common import output as show
from opengte.cli.common.options import (
    Function,
    ModelOptions,
    gathered,
    json_option,
    run_options,
    stacked,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tqdm import tqdm

    from opengte.evaluate.collection import Collection
    from opengte.evaluate.mteb_run import Model, Wanted, Watch
    from opengte.evaluate.records import Run, TaskRun
    from opengte.evaluate.report import Report
    from opengte.evaluate.systems import Loaders, System


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


model_argument = gathered(ModelOptions, "options", click.argument("model"), run_options)

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
      gte eval run minilm --data mteb-data/ --output results/minilm --report minilm.html
      gte eval run Alibaba-NLP/gte-multilingual-base --suite mteb-fr-26
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
        raise click.exceptions.Exit(errors.FAILED)


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
    if checkpoint.read_checkpoint(options.name, **where).kind == "reranker":  # type: ignore[arg-type]
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


own_data_options = stacked(
    click.option(
        "--data",
        required=True,
        type=click.Path(exists=True, path_type=Path),
        help="BEIR folder, or .csv, .tsv or .jsonl of questions and right documents.",
    ),
    click.option(
        "--split", default="test", show_default=True, metavar="NAME", help="Which qrels/NAME.tsv."
    ),
    click.option("--columns", metavar="Q,D", help="Columns of question and document."),
    click.option("--segment", metavar="NAME", help="Column or query field that groups queries."),
    click.option(
        "--measure",
        type=click.Choice(["nDCG@10", "R@10", "R@100", "RR@10", "AP@100"]),
        default="nDCG@10",
        show_default=True,
        help="What decides.",
    ),
)
shared_options = stacked(
    click.option("--engine", type=click.Choice(["auto", "native", "torch"]), help="What computes."),
    click.option("--precision", metavar="NAME", help="fp32, bf16, fp16 or int8."),
    click.option("--instruction", metavar="TEXT", help="The task, for models that take one."),
)


@command.command("compare", no_args_is_help=True)
@click.argument("a")
@click.argument("b")
@own_data_options
@shared_options
@json_option
@checked_reports
def compare_command(
    a: str,
    b: str,
    data: Path,
    split: str,
    columns: str | None,
    segment: str | None,
    measure: str,
    as_json: bool,
    reports: tuple[Path, ...],
    **shared: Any,
) -> None:
    """Say whether B is better than A on your own data.

    A and B are models, each with settings of its own after commas: engine, precision, dimensions,
    max_length, instruction, truncation, reranker, depth.

    \b
    Examples:
      gte eval compare minilm thenlper/gte-small --data support-questions.csv
      gte eval compare minilm minilm,dimensions=128 --data beir/ --report compare.html
      gte eval compare minilm minilm,reranker=BAAI/bge-reranker-base,depth=20 --data beir/
    """
    import time

    from opengte.evaluate import compare, systems

    pair = [systems.parse(text, **shared) for text in (a, b)]
    found = _collection(data, split, columns, segment)
    start = time.perf_counter()
    with _texts_bar(pair, found) as bar:
        first, second = systems.outcomes(pair, found, _loaders(), advance=bar.update)
    comparison = compare.compare(first, second, found, measure=measure)
    made = compare.report(comparison, found, time.perf_counter() - start)
    _show(made, as_json)
    _write(reports, made)


@command.command("sweep", no_args_is_help=True)
@click.argument("model")
@click.option("--dimensions", metavar="N,...", help="Sizes to cut vectors to.")
@click.option("--precisions", metavar="NAME,...", help="Precisions to compute in.")
@click.option("--max-length", metavar="TOKENS,...", help="Lengths to cut texts at.")
@click.option("--reranker", metavar="MODEL", help="Reads the first documents again.")
@click.option("--depth", metavar="N,...", help="How many documents it reads; 0: none.")
@own_data_options
@shared_options
@json_option
@checked_reports
def sweep_command(
    model: str,
    dimensions: str | None,
    precisions: str | None,
    max_length: str | None,
    reranker: str | None,
    depth: str | None,
    data: Path,
    split: str,
    columns: str | None,
    segment: str | None,
    measure: str,
    as_json: bool,
    reports: tuple[Path, ...],
    **shared: Any,
) -> None:
    """Measure a model in many settings: quality against time and space.

    \b
    Examples:
      gte eval sweep minilm --data beir/ --dimensions 64,128,256,384 --report sweep.html
      gte eval sweep minilm --data faq.csv --reranker BAAI/bge-reranker-base --depth 0,10,50
    """
    from dataclasses import replace

    from opengte.evaluate import sweep, systems

    base = replace(systems.parse(model, **shared), reranker=reranker)
    if depth is not None and reranker is None:
        raise click.UsageError("--depth needs --reranker.")
    every = sweep.settings(
        base,
        precision=_list(precisions),
        max_length=_numbers("--max-length", max_length),
        dimensions=_numbers("--dimensions", dimensions),
        depth=_numbers("--depth", depth, least=0),
    )
    found = _collection(data, split, columns, segment)
    with _texts_bar(every, found) as bar:
        outcomes = list(systems.outcomes(every, found, _loaders(), advance=bar.update))
    made = sweep.report(outcomes, found, measure)
    _show(made, as_json)
    _write(reports, made)


@command.command("needle", no_args_is_help=True)
@click.option(
    "--lengths",
    default="256,512,1024,2048,4096,8192,16384,32768",
    show_default=True,
    metavar="TOKENS,...",
    help="Lengths of the documents, in the model's tokens.",
)
@click.option(
    "--documents",
    type=click.IntRange(2),
    default=10,
    show_default=True,
    metavar="N",
    help="Documents of each length and position.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is generated.")
@json_option
@checked_reports
@model_argument
def needle_command(
    options: ModelOptions,
    lengths: str,
    documents: int,
    seed: int,
    as_json: bool,
    reports: tuple[Path, ...],
) -> None:
    """Find out from what length on a model loses facts in a document.

    Documents are generated; each hides one fact at a known place.

    \b
    Examples:
      gte eval needle minilm --report needle.html
      gte eval needle Alibaba-NLP/gte-multilingual-base --lengths 512,2048,8192
    """
    from opengte.evaluate import needle

    numbers = _numbers("--lengths", lengths)
    needle.check(numbers, documents)
    encoder = options.load_encoder()
    cells = len(needle.KINDS) * len(numbers) * len(needle.POSITIONS)
    with _bar("documents and questions", 2 * documents * cells) as bar:
        found = needle.find(
            encoder, lengths=numbers, documents=documents, seed=seed, advance=bar.update
        )
    made = needle.report(found, encoder)
    _show(made, as_json)
    _write(reports, made)


@command.command("check", no_args_is_help=True)
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    required=True,
    type=click.Path(path_type=Path),
    help="Results to hold them against.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="POINTS",
    help="How far a score may fall; its noise is allowed in any case.",
)
@json_option
def check_command(results: Path, baseline: Path, tolerance: float, as_json: bool) -> None:
    """Fail, with exit status 1, if quality fell by more than noise.

    RESULTS and the baseline are the run.json of an output folder, or JSON reports.

    \b
    Examples:
      gte eval check now.json --baseline baseline.json --tolerance 0.5
      gte eval check results/minilm/run.json --baseline before.json
    """
    from dataclasses import asdict

    from opengte.evaluate import check

    changes = check.check(results, baseline, tolerance)
    for change in changes:
        if as_json:
            show.json_line({**asdict(change), "fell": change.fell})
        elif change.fell:
            now = "missing" if change.now is None else f"{change.now:.2f}"
            click.echo(f"{change.name}: {change.before:.2f} -> {now}")
    click.echo(check.verdict(changes), err=as_json)
    if any(change.fell for change in changes):
        raise click.exceptions.Exit(errors.FAILED)


def _collection(data: Path, split: str, columns: str | None, segment: str | None) -> "Collection":
    """Read own data; what was left out is said before the encoding begins."""
    from opengte.evaluate import collection

    names = tuple(_list(columns))
    if names and len(names) != 2:
        raise click.UsageError(f"--columns is {columns}, expected two names with a comma between.")
    pair: Any = names or None
    found = collection.load(data, split=split, columns=pair, segment=segment)
    for note in found.notes:
        click.echo(f"warning: {note}", err=True)
    return found


def _loaders() -> "Loaders":
    from opengte.evaluate.systems import Loaders, System

    def load(kind: str, model: str, system: System) -> Any:
        import opengte

        if kind == "Reranker":
            return opengte.Reranker.load(model)
        return opengte.Encoder.load(
            model,
            engine=system.engine,
            precision=system.precision,
            max_length=system.max_length,
        )

    return Loaders(
        encoder=lambda system: load("Encoder", system.model, system),
        reranker=lambda system: load("Reranker", str(system.reranker), system),
    )


def _texts_bar(systems: "Sequence[System]", found: "Collection") -> "tqdm[Any]":
    runs = len({system.vectors for system in systems})
    return _bar("encoding", runs * (len(found.documents) + len(found.queries)))


def _show(made: "Report", as_json: bool) -> None:
    """Print a report: its verdict and tables for people, one object for programs."""
    if as_json:
        facts = dict(made.facts)
        show.json_line({"verdict": made.verdict, "facts": facts, "data": made.data})
        return
    for section in made.sections:
        if section.folded or not section.tables:
            continue
        click.echo(f"{section.title}:")
        for table in section.tables:
            show.table(table.header, [_cells(row) for row in table.rows])
        click.echo()
    click.echo(made.verdict)


def _list(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _numbers(option: str, text: str | None, least: int = 1) -> list[int]:
    parts = _list(text)
    if any(not part.isdigit() or int(part) < least for part in parts):
        raise click.UsageError(f"{option} is {text}, expected whole numbers with commas between.")
    return [int(part) for part in parts]
