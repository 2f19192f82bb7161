"""`gte data prepare`: files of texts to shards of token ids."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import errors
from opengte.cli.common import output as show
from opengte.cli.common.options import ModelOptions, combine_options, encoder_options, json_option
from opengte.cli.common.progress import progress_bar
from opengte.cli.data.options import (
    CleaningOptions,
    ColumnOptions,
    LimitOptions,
    cleaning_options,
    column_options,
    count_type,
    embed_dense,
    file_type,
    instruction_option,
    limit_options,
    parse_sources,
    print_columns,
    sources_argument,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opengte.data.cleaning.consistency import ConsistencyFilter
    from opengte.data.preparation.prepare import PreparationResult
    from opengte.types import Floats

TOKENS = 512  # kept of a text unless asked for otherwise: what GTE was fine-tuned with

prepare_options = combine_options(
    click.option(
        "-o",
        "--output",
        required=True,
        type=click.Path(path_type=Path, file_okay=False),
        metavar="FOLDER",
        help="Output folder for the shards.",
    ),
    click.option(
        "--sources",
        "listed",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="TOML file of sources, each with its own columns and options.",
    ),
    column_options,
    instruction_option,
    click.option(
        "--in-batch-negatives/--no-in-batch-negatives",
        default=None,
        help="Use other rows' texts as negatives.  [default: for pairs]",
    ),
    click.option(
        "--query-tokens", type=count_type, metavar="N", help=f"Cut queries at.  [default: {TOKENS}]"
    ),
    click.option(
        "--document-tokens",
        type=count_type,
        metavar="N",
        help=f"Cut other texts at.  [default: {TOKENS}]",
    ),
    cleaning_options,
    limit_options,
    click.option("--keep-duplicates", is_flag=True, help="Keep duplicate rows."),
    click.option(
        "--exclude",
        multiple=True,
        type=file_type,
        metavar="PATH",
        help="Drop rows that contain texts of this file, such as a benchmark; repeatable.",
    ),
    click.option(
        "--consistent",
        type=count_type,
        metavar="K",
        help="Keep only pairs whose positive ranks among the top K of a random pool "
        "(consistency filter).",
    ),
    click.option(
        "--pool",
        type=click.IntRange(2),
        default=1_000_000,
        show_default=True,
        metavar="N",
        help="Size of that pool.",
    ),
    click.option(
        "--filter-model",
        metavar="MODEL",
        help="Model for the consistency filter.  [default: --model]",
    ),
    click.option(
        "--restart", is_flag=True, help="Start over instead of resuming an interrupted run."
    ),
)


@click.command("prepare", no_args_is_help=True)
@sources_argument
@prepare_options
@json_option
@encoder_options
def command(
    sources: tuple[str, ...],
    output: Path,
    listed: Path | None,
    columns: ColumnOptions,
    instruction: str | None,
    in_batch_negatives: bool | None,
    query_tokens: int | None,
    document_tokens: int | None,
    cleaning: CleaningOptions,
    limits: LimitOptions,
    keep_duplicates: bool,
    exclude: tuple[Path, ...],
    consistent: int | None,
    pool: int,
    filter_model: str | None,
    restart: bool,
    as_json: bool,
    options: ModelOptions,
) -> None:
    """Clean, filter and tokenise training data into shards.

    Sources are JSON Lines, CSV, TSV, text, Parquet or Arrow files (compressed or not), folders of
    these, or datasets saved by the Hugging Face library. They hold pairs, triples, one-to-many
    rows, scored pairs, or labelled or raw texts. Repeating the command resumes an interrupted run.

    \b
    Examples:
      gte data prepare faq.csv --query question --positive answer --output data/
      gte data prepare web=web/ nli=nli.jsonl.gz -o data/ -m thenlper/gte-base --exclude scifact/
      gte data prepare --sources sources.toml --output data/ --consistent 2 --pool 100000
    """
    from opengte import checkpoint as checkpoints
    from opengte.data.preparation.prepare import prepare as write
    from opengte.data.preparation.source_tokenizer import SourceTokenizer
    from opengte.data.preparation.window import PreparationSettings

    where = {"revision": options.revision, "offline": options.offline}
    checkpoint = checkpoints.read_checkpoint(
        options.name,
        max_length=options.max_length,
        **where,  # type: ignore[arg-type]
    )
    switches = {"instruction": instruction, "in_batch_negatives": in_batch_negatives}
    specs = parse_sources(sources, listed, columns, switches)
    for spec in specs:
        print_columns(spec)
    longest = min(TOKENS, checkpoint.max_length)
    tokens = [_tokens(n, longest, checkpoint.max_length) for n in (query_tokens, document_tokens)]
    encoding = SourceTokenizer(checkpoint.tokenizer, checkpoint.prompts, *tokens)
    settings = PreparationSettings(limits.record(), cleaning.record(), keep_duplicates)
    consistency = consistent and _consistency(options, filter_model, consistent, pool)
    with progress_bar("rows") as advance:
        how: Any = {"consistent": consistency or None, "restart": restart, "advance": advance}
        result = write(specs, output, encoding, settings, excluded=_excluded(exclude), **how)
    _report(result, output, as_json=as_json)


def _report(result: "PreparationResult", output: Path, *, as_json: bool) -> None:
    """Say what was kept of each source; fail where nothing was."""
    for name, tally in result.tallies.items():
        if as_json:
            show.print_json({"source": name, **tally.record()})
    if not as_json:
        rows = [
            (name, t.read, t.kept, *(", ".join(f"{rule} {n:,}" for rule, n in _main(t.dropped)),))
            for name, t in result.tallies.items()
        ]
        show.print_table(("source", "rows", "kept", "dropped"), rows)
    click.echo(f"wrote `{output}`; `{output / 'report.md'}` lists what was dropped", err=True)
    for name in result.empty:
        click.echo(f"error: no row of source `{name}` is left", err=True)
    if result.empty:
        raise click.exceptions.Exit(errors.FAILED)


def _main(dropped: Any) -> list[tuple[str, int]]:
    counts: list[tuple[str, int]] = dropped.most_common(4)
    return counts


def _tokens(asked: int | None, default: int, most: int) -> int:
    if asked is not None and asked > most:
        raise click.UsageError(f"The model takes at most {most} tokens, not {asked}.")
    return asked or default


def _excluded(paths: tuple[Path, ...]) -> frozenset[bytes]:
    from opengte.data.preparation.prepare import hash_texts
    from opengte.data.reading.text_extraction import all_texts

    found: frozenset[bytes] = frozenset()
    for path in paths:
        own = hash_texts(all_texts(path))
        click.echo(f"excluding {len(own):,} texts of `{path}`", err=True)
        found |= own
    return found


def _consistency(
    options: ModelOptions, filter_model: str | None, keep: int, pool: int
) -> "ConsistencyFilter":
    from opengte.data.cleaning.consistency import ConsistencyFilter

    encoder = replace(options, model=filter_model or options.model).load_encoder()

    def queries(texts: "Sequence[str]", instruction: str | None) -> "Floats":
        return embed_dense(encoder, texts, "query", instruction)

    def documents(texts: "Sequence[str]") -> "Floats":
        return embed_dense(encoder, texts, "document", None)

    return ConsistencyFilter(queries, documents, encoder.card.fingerprint, keep, pool)
