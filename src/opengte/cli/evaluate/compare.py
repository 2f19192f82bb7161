"""`gte eval compare`, `sweep` and `check`: decisions on one's own data."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import errors, output
from opengte.cli.common.options import combine_options, json_option, options_record
from opengte.cli.common.progress import progress_bar
from opengte.cli.evaluate.options import (
    checked_reports,
    print_report,
    split_names,
    split_numbers,
    write_reports,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from opengte.evaluate.dataset import RetrievalDataset
    from opengte.evaluate.systems import ModelLoaders, RetrievalSystem


@dataclass(frozen=True)
class OwnData:
    """The user's collection, and the measure that decides."""

    data: Path
    split: str
    columns: str | None
    segment: str | None
    measure: str

    def load(self) -> "RetrievalDataset":
        """Load the collection, and print what was left out before encoding begins."""
        from opengte.evaluate import dataset

        names = tuple(split_names(self.columns))
        if names and len(names) != 2:
            raise click.UsageError(
                f"--columns is {self.columns}, expected two names separated by a comma."
            )
        pair: Any = names or None
        found = dataset.load_dataset(
            self.data, split=self.split, columns=pair, segment=self.segment
        )
        for note in found.notes:
            click.echo(f"warning: {note}", err=True)
        return found


own_data_options = options_record(
    OwnData,
    "own",
    click.option(
        "--data",
        required=True,
        type=click.Path(exists=True, path_type=Path),
        help="BEIR folder, or .csv, .tsv or .jsonl file of questions and their documents.",
    ),
    click.option(
        "--split",
        default="test",
        show_default=True,
        metavar="NAME",
        help="Judgements to use: qrels/NAME.tsv.",
    ),
    click.option("--columns", metavar="Q,D", help="Columns of question and document."),
    click.option(
        "--segment", metavar="NAME", help="Column or query field that groups queries into segments."
    ),
    click.option(
        "--measure",
        type=click.Choice(["nDCG@10", "R@10", "R@100", "RR@10", "AP@100"]),
        default="nDCG@10",
        show_default=True,
        help="Metric that decides.",
    ),
)


shared_options = combine_options(
    click.option(
        "--engine", type=click.Choice(["auto", "native", "torch"]), help="Inference engine."
    ),
    click.option(
        "--precision", metavar="NAME", help="Numerical precision: fp32, bf16, fp16 or int8."
    ),
    click.option(
        "--instruction", metavar="TEXT", help="Task description, for models that take instructions."
    ),
)


@click.command("compare", no_args_is_help=True)
@click.argument("a")
@click.argument("b")
@own_data_options
@shared_options
@json_option
@checked_reports
def compare_command(
    a: str,
    b: str,
    own: OwnData,
    as_json: bool,
    reports: tuple[Path, ...],
    **shared: Any,
) -> None:
    """Test whether model B is better than model A on your own data.

    A and B are models, each optionally followed by comma-separated settings: engine, precision,
    dimensions, max_length, instruction, truncation, reranker, depth.

    \b
    Examples:
      gte eval compare minilm thenlper/gte-small --data support-questions.csv
      gte eval compare minilm minilm,dimensions=128 --data beir/ --report compare.html
      gte eval compare minilm minilm,reranker=BAAI/bge-reranker-base,depth=20 --data beir/
    """
    import time

    from opengte.evaluate import compare, systems

    pair = [systems.parse_system(text, **shared) for text in (a, b)]
    found = own.load()
    start = time.perf_counter()
    with _encoding_bar(pair, found) as advance:
        first, second = systems.evaluate_systems(pair, found, _loaders(), advance=advance)
    comparison = compare.compare_systems(first, second, found, measure=own.measure)
    made = compare.comparison_report(comparison, found, time.perf_counter() - start)
    print_report(made, as_json)
    write_reports(reports, made)


@click.command("sweep", no_args_is_help=True)
@click.argument("model")
@click.option("--dimensions", metavar="N,...", help="Comma-separated vector dimensions.")
@click.option("--precisions", metavar="NAME,...", help="Comma-separated precisions.")
@click.option(
    "--max-length", metavar="TOKENS,...", help="Comma-separated maximum lengths of texts."
)
@click.option("--reranker", metavar="MODEL", help="Reranker for the top documents.")
@click.option(
    "--depth",
    metavar="N,...",
    help="Comma-separated reranking depths, in documents; 0 disables the reranker.",
)
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
    own: OwnData,
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
    from opengte.evaluate import sweep, systems

    base = replace(systems.parse_system(model, **shared), reranker=reranker)
    if depth is not None and reranker is None:
        raise click.UsageError("--depth needs --reranker.")
    every = sweep.sweep_systems(
        base,
        precision=split_names(precisions),
        max_length=split_numbers("--max-length", max_length),
        dimensions=split_numbers("--dimensions", dimensions),
        depth=split_numbers("--depth", depth, least=0),
    )
    found = own.load()
    with _encoding_bar(every, found) as advance:
        outcomes = list(systems.evaluate_systems(every, found, _loaders(), advance=advance))
    made = sweep.sweep_report(outcomes, found, own.measure)
    print_report(made, as_json)
    write_reports(reports, made)


@click.command("check", no_args_is_help=True)
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    required=True,
    type=click.Path(path_type=Path),
    help="Baseline results to compare with.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="POINTS",
    help="Allowed decrease of a score; decreases within its noise are always allowed.",
)
@json_option
def check_command(results: Path, baseline: Path, tolerance: float, as_json: bool) -> None:
    """Exit with status 1 if quality fell by more than noise.

    RESULTS and the baseline are the run.json of an output folder, or JSON reports.

    \b
    Examples:
      gte eval check now.json --baseline baseline.json --tolerance 0.5
      gte eval check results/minilm/run.json --baseline before.json
    """
    from opengte.evaluate import regression

    changes = regression.compare_results(results, baseline, tolerance)
    for change in changes:
        if as_json:
            output.print_json({**asdict(change), "fell": change.fell})
        elif change.fell:
            now = "missing" if change.now is None else f"{change.now:.2f}"
            click.echo(f"{change.name}: {change.before:.2f} -> {now}")
    click.echo(regression.regression_verdict(changes), err=as_json)
    if any(change.fell for change in changes):
        raise click.exceptions.Exit(errors.FAILED)


def _loaders() -> "ModelLoaders":
    from opengte.evaluate.systems import ModelLoaders, RetrievalSystem

    def load(kind: str, model: str, system: RetrievalSystem) -> Any:
        import opengte

        if kind == "Reranker":
            return opengte.Reranker.load(model)
        return opengte.Encoder.load(
            model,
            engine=system.engine,
            precision=system.precision,
            max_length=system.max_length,
        )

    return ModelLoaders(
        encoder=lambda system: load("Encoder", system.model, system),
        reranker=lambda system: load("Reranker", str(system.reranker), system),
    )


def _encoding_bar(
    systems: "Sequence[RetrievalSystem]", data: "RetrievalDataset"
) -> "AbstractContextManager[Callable[[int], None]]":
    runs = len({system.vectors for system in systems})
    texts = len(data.documents) + len(data.queries)
    return progress_bar(" texts", total=runs * texts, label="encoding")
