"""The options by which a command takes many texts: arguments, `-` for stdin, or a file."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from opengte.bulk import rows
from opengte.bulk.rows import BadRow, Fields, InputFormat, Row
from opengte.cli.common.options import gathered
from opengte.journal import file_identity


@dataclass(frozen=True)
class Input:
    """Where the texts are."""

    texts: tuple[str, ...]
    path: Path | None
    input_format: InputFormat | None
    text_field: str
    id_field: str | None

    def check(self) -> None:
        """Refuse no texts at all, and texts from two places."""
        if not self.texts and self.path is None:
            raise click.UsageError("No texts: give some, or `-` for stdin, or --input FILE.")
        if self.texts and self.path is not None:
            raise click.UsageError("Texts come either from the command line or from --input FILE.")
        if "-" in self.texts and len(self.texts) > 1:
            raise click.UsageError("`-` reads stdin and stands alone.")

    @property
    def is_stdin(self) -> bool:
        """Return whether texts come from stdin, which can be read only once."""
        return self.texts == ("-",)

    @property
    def name(self) -> str:
        """Return what to call the input in a message."""
        return str(self.path) if self.path else "stdin" if self.is_stdin else "argument"

    @property
    def format(self) -> InputFormat:
        """Return the format that was asked for, or the one that the file's name implies."""
        return self.input_format or rows.format_of(self.path)

    def rows(self) -> Iterable[Row | BadRow]:
        """Return the texts, one row at a time."""
        fields = Fields(self.text_field, self.id_field)
        if self.path is not None:
            return rows.from_file(self.path, self.format, fields)
        if self.is_stdin:
            return rows.from_stdin(self.format, fields)
        return rows.from_arguments(self.texts)

    def identity(self) -> dict[str, Any]:
        """Describe the input well enough to tell whether a later run reads the same."""
        fields = {"format": self.format, "text_field": self.text_field, "id_field": self.id_field}
        if self.path is not None:
            return {**fields, **file_identity(self.path)}
        if self.is_stdin:
            return {**fields, "stdin": True}
        joined = "\0".join(self.texts).encode("utf-8", "surrogateescape")
        return {"arguments": hashlib.sha256(joined).hexdigest()}


input_options = gathered(
    Input,
    "source",
    click.argument("texts", nargs=-1),
    click.option(
        "-i",
        "--input",
        "path",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File of texts: .jsonl, .parquet, or a text on each line; .gz of these but Parquet.",
    ),
    click.option(
        "--input-format",
        type=click.Choice(["text", "jsonl", "parquet"]),
        help="Format of the input.  [default: by the file's name; text for `-`]",
    ),
    click.option(
        "--text-field",
        default="text",
        show_default=True,
        metavar="NAME",
        help="Field or column that holds the text.",
    ),
    click.option(
        "--id-field",
        metavar="NAME",
        help="Field or column that names the row.  [default: `id` where there is one]",
    ),
)
