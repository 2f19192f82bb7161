"""The options by which a command takes many texts: arguments, `-` for stdin, or a file."""

import sys
from dataclasses import dataclass
from pathlib import Path

import click

from opengte.bulk import FieldNames, InvalidRow, RowSource
from opengte.bulk.formats import InputFormat, input_format
from opengte.cli.common.options import options_record


@dataclass(frozen=True)
class InputOptions:
    """Where the texts are."""

    texts: tuple[str, ...]
    path: Path | None
    input_format: InputFormat | None
    text_field: str | None
    id_field: str | None

    def check(self) -> None:
        """Raise UsageError for no texts at all, and for texts from two places."""
        if not self.texts and self.path is None:
            raise click.UsageError("No texts: give TEXTS, `-` for stdin, or --input FILE.")
        if self.texts and self.path is not None:
            raise click.UsageError("Texts come either from the command line or from --input FILE.")
        if "-" in self.texts and len(self.texts) > 1:
            raise click.UsageError("`-` (stdin) cannot be combined with other texts.")

    @property
    def format(self) -> InputFormat:
        """Return the given format, or the one that the file's name implies."""
        return self.input_format or input_format(self.path)

    def source(self) -> RowSource:
        """Return the texts as a source of rows."""
        fields = FieldNames(self.text_field, self.id_field)
        if self.path is not None:
            return RowSource.from_file(self.path, self.format, fields)
        if self.texts == ("-",):
            return RowSource.from_stream(sys.stdin.buffer, self.format, fields)
        return RowSource.from_texts(self.texts)


def report_invalid(source: RowSource, row: InvalidRow) -> None:
    """Print why a row cannot be used."""
    click.echo(f"error: {source.name}:{row.number}: {row.reason}", err=True)


input_options = options_record(
    InputOptions,
    "inputs",
    click.argument("texts", nargs=-1),
    click.option(
        "-i",
        "--input",
        "path",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Input file: .jsonl, .csv, .tsv, .parquet, or plain text with one text per line; all"
        " but .parquet may be gzipped (.gz).",
    ),
    click.option(
        "--input-format",
        type=click.Choice(["text", "jsonl", "csv", "tsv", "parquet"]),
        help="Format of the input.  [default: from the file's suffix; text for `-`]",
    ),
    click.option(
        "--text-field",
        metavar="NAME",
        help="Field or column with the text.  [default: `text`, or the only one with texts]",
    ),
    click.option(
        "--id-field",
        metavar="NAME",
        help="Field or column with the row's id.  [default: `id`, if present]",
    ),
)
