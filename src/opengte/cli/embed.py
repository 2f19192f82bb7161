"""`gte embed`: texts in, vectors out."""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opengte.bulk import EmbedProgress, embed_files
from opengte.bulk.formats import output_format
from opengte.bulk.types import OUTPUTS
from opengte.cli.common import errors
from opengte.cli.common.inputs import InputOptions, input_options, report_invalid
from opengte.cli.common.options import (
    ModelOptions,
    TextOptions,
    encoder_options,
    engine_summary,
    note_default_instruction,
    text_options,
)
from opengte.cli.common.progress import progress_bar

if TYPE_CHECKING:
    from opengte import Encoder


def _outputs(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Read a comma-separated list of outputs, in any order."""
    names = {name.strip() for name in value.split(",")}
    if unknown := sorted(names.difference(OUTPUTS)):
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(OUTPUTS)}.")
    return tuple(name for name in OUTPUTS if name in names)


@click.command("embed", no_args_is_help=True)
@input_options
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Output file: .jsonl, .npy or .parquet.  [default: JSON Lines on stdout]",
)
@click.option(
    "--outputs",
    default="dense",
    show_default=True,
    callback=_outputs,
    metavar="LIST",
    help="Comma-separated outputs: dense, sparse, tokens.",
)
@click.option(
    "--window",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    metavar="ROWS",
    help="Rows to embed, write and checkpoint together.",
)
@click.option("--strict", is_flag=True, help="Stop at the first invalid row.")
@click.option("--restart", is_flag=True, help="Start over instead of resuming an interrupted run.")
@text_options
@encoder_options
def command(
    inputs: InputOptions,
    output: Path | None,
    outputs: tuple[str, ...],
    window: int,
    strict: bool,
    restart: bool,
    text: TextOptions,
    options: ModelOptions,
) -> None:
    """Embed texts: turn them into vectors.

    Texts come from the command line, from stdin (`-`, one text per line) or from a file. Invalid
    rows are reported with their line number, the other rows are embedded, and the exit status is 1.

    With --output, repeating the command resumes an interrupted run, and the output is the same,
    byte for byte. The row ids of a .npy file are written to a second file, .ids.jsonl.

    \b
    Examples:
      gte embed "What is a text embedding?" "Vectors that stand for meaning."
      gte embed --input notes.jsonl --text-field body --role document --output notes.parquet
      cat questions.txt | gte embed - --role query > questions.jsonl
    """
    inputs.check()
    _check_output(inputs, output, outputs)
    source = inputs.source()
    encoder = options.load_encoder()
    with progress_bar(" rows") if output else nullcontext() as advance:
        try:
            counts = embed_files(
                encoder,
                source,
                output or sys.stdout.buffer,
                outputs=outputs,
                **vars(text),
                window=window,
                strict=strict,
                restart=restart,
                on_progress=advance,
                on_invalid=partial(report_invalid, source),
                on_resume=_note_resume,
                on_warning=lambda text: click.echo(f"warning: {text}", err=True),
            )
        except KeyboardInterrupt as interruption:
            if output is not None and source.resumable:
                interruption.add_note("the same command continues from here")
            raise
    note_default_instruction(encoder)
    _summarise(counts, encoder)


def _check_output(inputs: InputOptions, output: Path | None, outputs: tuple[str, ...]) -> None:
    """Raise for an output that cannot be written, before a model is loaded."""
    if output is None:
        return
    if inputs.path is not None and output.exists() and output.samefile(inputs.path):
        raise click.UsageError(f"--output and --input are the same file: {output}")
    output_format(output, outputs)


def _note_resume(progress: EmbedProgress) -> None:
    click.echo(f"continuing after row {progress.seen:,} ({progress.failed:,} failed)", err=True)


def _summarise(counts: EmbedProgress, encoder: "Encoder") -> None:
    """Print counts on stderr; exit with 1 if a row failed."""
    parts = [
        f"embedded {counts.written:,} texts, {counts.tokens:,} tokens {engine_summary(encoder)}"
    ]
    parts += [f"{counts.truncated:,} truncated"] * bool(counts.truncated)
    parts += [f"{counts.repaired:,} with undecodable characters replaced"] * bool(counts.repaired)
    parts += [f"{counts.failed:,} failed"] * bool(counts.failed)
    click.echo("; ".join(parts), err=True)
    if counts.failed:
        raise click.exceptions.Exit(errors.FAILED)
