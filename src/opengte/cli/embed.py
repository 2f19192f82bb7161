"""`gte embed`: texts in, vectors out."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opengte import __version__
from opengte.bulk import formats, job
from opengte.cli.common import errors
from opengte.cli.common.inputs import Input, input_options
from opengte.cli.common.options import (
    ModelOptions,
    TextOptions,
    encoder_options,
    engine_of,
    note_default_instruction,
    text_options,
)
from opengte.cli.common.progress import progress_bar
from opengte.journal import Entry

if TYPE_CHECKING:
    from opengte import Encoder

OUTPUTS = ("dense", "sparse", "tokens")
DETAILED = 16  # a window that keeps a vector for each token holds this many times fewer characters


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
    help="Write to .jsonl, .npy or .parquet.  [default: JSON Lines on stdout]",
)
@click.option(
    "--outputs",
    default="dense",
    show_default=True,
    callback=_outputs,
    metavar="LIST",
    help="Which vectors: dense, sparse, tokens, or several with commas.",
)
@click.option(
    "--window",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    metavar="ROWS",
    help="Rows that are embedded, written and recorded together.",
)
@click.option("--strict", is_flag=True, help="Stop at the first row that cannot be used.")
@click.option("--restart", is_flag=True, help="Begin again instead of continuing a killed run.")
@text_options
@encoder_options
def command(
    source: Input,
    output: Path | None,
    outputs: tuple[str, ...],
    window: int,
    strict: bool,
    restart: bool,
    text: TextOptions,
    options: ModelOptions,
) -> None:
    """Turn texts into vectors.

    Texts come from the command line, from stdin (`-`, a text on each line) or from a file. A row
    that cannot be used is reported with its place, the others are done, and the exit status is 1.

    With --output, the same command continues a run that was killed, and the file ends up the same,
    byte for byte. A .npy file gets its ids in a second file, .ids.jsonl, row by row.

    \b
    Examples:
      gte embed "What is a text embedding?" "Vectors that stand for meaning."
      gte embed --input notes.jsonl --text-field body --role document --output notes.parquet
      cat questions.txt | gte embed - --role query > questions.jsonl
    """
    source.check()
    format = _format(source, output, outputs)
    encoder = options.load_encoder()
    work = job.Work(
        embed=lambda texts: text.embed(encoder, texts, outputs),
        window=window,
        characters=job.CHARACTERS // (DETAILED if "tokens" in outputs else 1),
        strict=strict,
        source=source.name,
    )
    work.embed([""])  # so that a wrong option is not taken for the fault of every row
    card = encoder.card
    layout = formats.Layout(text.dimensions or card.dimension, outputs, card.name, card.fingerprint)
    if output is None or format is None:
        done = job.to_stream(source.rows(), work, layout, sys.stdout.buffer)
    else:
        header = _header(encoder, source, text, outputs, window) | {"output": output.name}
        target = job.Target(output, format, layout, header, not source.is_stdin, restart)
        with progress_bar(" rows") as advance:
            done = job.to_file(source.rows(), work, target, advance)
    note_default_instruction(encoder)
    _summarise(done, encoder)


def _format(source: Input, output: Path | None, outputs: tuple[str, ...]) -> formats.Format | None:
    """Return the format of the output file, before anything slow is done; None for stdout."""
    if output is None:
        return None
    if source.path is not None and output.exists() and output.samefile(source.path):
        raise click.UsageError(f"--output and --input are the same file: {output}")
    return formats.for_output(output, outputs)


def _header(
    encoder: "Encoder", source: Input, text: TextOptions, outputs: tuple[str, ...], window: int
) -> Entry:
    """Return all that the bytes of the output depend on."""
    card = encoder.card
    return {
        "opengte": __version__,
        "model": card.fingerprint,
        "engine": card.engine,
        "precision": card.precision,
        "device": card.device,
        "max_length": card.max_length,
        **asdict(text),
        "outputs": list(outputs),
        "window": window,
        "input": source.identity(),
    }


def _summarise(done: job.Progress, encoder: "Encoder") -> None:
    """Print counts on stderr; exit with 1 if a row failed."""
    parts = [f"embedded {done.written:,} texts, {done.tokens:,} tokens {engine_of(encoder)}"]
    parts += [f"{done.truncated:,} truncated"] * bool(done.truncated)
    parts += [f"{done.repaired:,} with undecodable characters replaced"] * bool(done.repaired)
    parts += [f"{done.failed:,} failed"] * bool(done.failed)
    click.echo("; ".join(parts), err=True)
    if done.failed:
        raise click.exceptions.Exit(errors.FAILED)
