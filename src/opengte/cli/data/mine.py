"""`gte data mine`: hard negatives for files of pairs."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import output as show
from opengte.cli.common.options import ModelOptions, combine_options, encoder_options, json_option
from opengte.cli.common.progress import progress_bar
from opengte.cli.data.options import (
    CleaningOptions,
    ColumnOptions,
    cleaning_options,
    column_options,
    count_type,
    embed_dense,
    file_type,
    instruction_option,
    margin_option,
    parse_sources,
    print_columns,
    sources_argument,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opengte.data.mining.hard_negatives import MiningReport, MiningSettings
    from opengte.data.reading.sources import SourceSpec
    from opengte.types import Floats

mine_options = combine_options(
    click.option(
        "-o",
        "--output",
        required=True,
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Output file: .jsonl, .jsonl.gz, .csv or .parquet.",
    ),
    click.option(
        "--corpus",
        multiple=True,
        type=file_type,
        metavar="PATH",
        help="Additional texts to mine negatives from; repeatable.",
    ),
    click.option(
        "-n",
        "--negatives",
        type=count_type,
        default=8,
        show_default=True,
        help="Negatives per row.",
    ),
    click.option(
        "--first", type=count_type, default=2, show_default=True, help="First rank to consider."
    ),
    click.option(
        "--last", type=count_type, default=100, show_default=True, help="Last rank to consider."
    ),
    margin_option,
    click.option(
        "--draw",
        type=click.Choice(["random", "top"]),
        default="random",
        show_default=True,
        help="Select candidates at random or from the top.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Random seed."),
    click.option(
        "--reranker",
        metavar="MODEL",
        help="Reject candidates that this model does not score below the positive.",
    ),
    click.option(
        "--reranker-margin",
        type=float,
        default=0.0,
        show_default=True,
        help="Minimum margin below the positive's reranker score.",
    ),
    click.option("--scores", is_flag=True, help="Write the reranker's scores, for distillation."),
    column_options,
    instruction_option,
    cleaning_options,
)


@click.command("mine", no_args_is_help=True)
@sources_argument
@mine_options
@json_option
@encoder_options
def command(
    sources: tuple[str, ...],
    output: Path,
    corpus: tuple[Path, ...],
    negatives: int,
    first: int,
    last: int,
    margin: float,
    draw: Any,
    seed: int,
    reranker: str | None,
    reranker_margin: float,
    scores: bool,
    columns: ColumnOptions,
    instruction: str | None,
    cleaning: CleaningOptions,
    as_json: bool,
    options: ModelOptions,
) -> None:
    """Mine hard negatives for pairs: near the query, but not answers.

    Negatives come from the positives and negatives of all rows, and from --corpus. A text that
    answers the query in any row, and its duplicates, are never used as negatives. Repeating an
    interrupted command reuses the vectors that it computed.

    \b
    Examples:
      gte data mine pairs.jsonl --output mined.jsonl
      gte data mine qa.parquet -o mined.jsonl.gz -m thenlper/gte-base -n 4 --first 10 --last 50
      gte data mine qa.csv -o mined.jsonl --reranker BAAI/bge-reranker-base --scores
    """
    from opengte.data.mining.files import dropped_file
    from opengte.data.mining.hard_negatives import MiningSettings

    if scores and reranker is None:
        raise click.UsageError("--scores needs --reranker.")
    settings = MiningSettings(negatives, first, last, margin, reranker_margin, draw, seed)
    specs = parse_sources(sources, None, columns, {})
    for spec in specs:
        print_columns(spec)
    mined = _mined(
        specs, output, corpus, settings, (reranker, scores), cleaning, instruction, options
    )
    if as_json:
        show.print_json(mined.record())
    else:
        show.print_table(("candidates", "count"), sorted(mined.candidates.items()))
        found = [(str(n), count) for n, count in sorted(mined.negatives.items())]
        show.print_table(("negatives", "rows"), found)
    dropped = sum(mined.dropped.values())
    rules = ", ".join(f"{rule} {count:,}" for rule, count in mined.dropped.most_common())
    where = f"; `{dropped_file(output)}` has their places" if dropped else ""
    left_out = f"; {dropped:,} rows dropped ({rules}){where}" if dropped else ""
    if short := mined.shortage(settings):
        click.echo(f"warning: {short}", err=True)
    click.echo(f"wrote {mined.rows:,} rows to `{output}`{left_out}", err=True)


def _mined(
    specs: "list[SourceSpec]",
    output: Path,
    corpus: tuple[Path, ...],
    settings: "MiningSettings",
    reranking: tuple[str | None, bool],
    cleaning: CleaningOptions,
    instruction: str | None,
    options: ModelOptions,
) -> "MiningReport":
    from opengte.data.mining.files import MiningModels, mine_hard_negatives

    encoder, (name, scores) = options.load_encoder(), reranking
    score: Callable[[str, Sequence[str]], Floats] | None = None
    if name is not None:
        score = replace(options, model=name, max_length=None).load_reranker().score
    models = MiningModels(
        queries=lambda texts: embed_dense(encoder, texts, "query", instruction),
        documents=lambda texts: embed_dense(encoder, texts, "document", None),
        identity={"model": encoder.card.fingerprint, "instruction": instruction},
        score=score,
        write_scores=scores,
    )
    with progress_bar("texts") as advance:
        return mine_hard_negatives(
            specs,
            output,
            models,
            settings,
            corpus=corpus,
            cleaning=cleaning.record(),
            advance=advance,
        )
