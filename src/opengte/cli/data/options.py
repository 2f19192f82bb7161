"""Options that the commands of `gte data` share, and the records that they become."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common.options import options_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opengte.data.cleaning.filters import LengthLimits
    from opengte.data.cleaning.text_cleaning import CleaningSettings
    from opengte.data.reading.sources import SourceSpec
    from opengte.encoder import Encoder
    from opengte.types import Floats, Role

file_type = click.Path(path_type=Path, exists=True)


@dataclass(frozen=True)
class ColumnOptions:
    """Names of columns whose role their names do not imply."""

    query: str | None
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    score: tuple[str, ...]
    label: str | None
    text: str | None


@dataclass(frozen=True)
class CleaningOptions:
    """Optional cleaning steps."""

    html: bool
    fold_space: bool

    def record(self) -> "CleaningSettings":
        """Return the steps to take."""
        from opengte.data.cleaning.text_cleaning import CleaningSettings

        return CleaningSettings(html=self.html, space=self.fold_space)


@dataclass(frozen=True)
class LimitOptions:
    """Limits on the length of a text."""

    min_characters: int
    max_characters: int | None
    min_tokens: int
    max_tokens: int | None

    def record(self) -> "LengthLimits":
        """Return the limits."""
        from opengte.data.cleaning.filters import LengthLimits

        return LengthLimits(**{f.name: getattr(self, f.name) for f in fields(self)})


column_options = options_record(
    ColumnOptions,
    "columns",
    click.option("--query", metavar="COLUMN", help="Column with the query."),
    click.option(
        "--positive", multiple=True, metavar="COLUMN", help="Column with a positive; repeatable."
    ),
    click.option(
        "--negative", multiple=True, metavar="COLUMN", help="Column with a negative; repeatable."
    ),
    click.option(
        "--score", multiple=True, metavar="COLUMN", help="Column with a score; repeatable."
    ),
    click.option("--label", metavar="COLUMN", help="Column with the label of a text."),
    click.option("--text", metavar="COLUMN", help="Column with raw or labelled texts."),
)

cleaning_options = options_record(
    CleaningOptions,
    "cleaning",
    click.option("--html", is_flag=True, help="Decode HTML entities."),
    click.option("--fold-space", is_flag=True, help="Collapse white space, including line breaks."),
)

count_type = click.IntRange(1)
limit_options = options_record(
    LimitOptions,
    "limits",
    click.option(
        "--min-characters",
        type=count_type,
        default=1,
        metavar="N",
        help="Drop shorter texts.",
    ),
    click.option("--max-characters", type=count_type, metavar="N", help="Drop longer texts."),
    click.option(
        "--min-tokens",
        type=click.IntRange(0),
        default=0,
        metavar="N",
        help="Drop texts with fewer tokens, including special tokens.",
    ),
    click.option(
        "--max-tokens",
        type=count_type,
        metavar="N",
        help="Drop texts with more tokens instead of truncating them.",
    ),
)

sources_argument = click.argument("sources", nargs=-1, metavar="[NAME=]PATH...")
instruction_option = click.option(
    "--instruction", metavar="TEXT", help="Task description, prepended to queries."
)

margin_option = click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.95,
    show_default=True,
    help="Highest score of a mined negative: 0 is the query's mean score over the corpus, "
    "1 that of its positive.",
)


def parse_sources(
    sources: tuple[str, ...],
    listed: Path | None,
    columns: ColumnOptions,
    switches: dict[str, Any],
) -> "list[SourceSpec]":
    """Return the sources given on the command line or in a TOML file."""
    from opengte.data.reading import source_specs
    from opengte.data.reading.column_mapping import ColumnMapping
    from opengte.data.reading.sources import SourceSpec

    given = ColumnMapping(**vars(columns))
    if listed is not None:
        if sources or given != ColumnMapping() or any(v is not None for v in switches.values()):
            raise click.UsageError("--sources excludes PATH, column options and switches.")
        return source_specs.read_source_specs(listed)
    if not sources:
        raise click.UsageError("Give at least one PATH, or --sources FILE.")
    return [
        SourceSpec(name, paths, given, **switches)
        for name, paths in source_specs.parse_source_arguments(sources).items()
    ]


def print_columns(spec: "SourceSpec") -> None:
    """Print the detected kind and columns of a source; an error names the source."""
    from opengte.data.reading.sources import detect_columns
    from opengte.errors import InputError

    try:
        found = detect_columns(spec.paths, spec.columns)
    except InputError as error:
        raise InputError(f"source `{spec.name}`: {error}") from error
    click.echo(f"{spec.name}: {found.kind} ({found})", err=True)


def embed_dense(
    encoder: "Encoder", texts: "Sequence[str]", role: "Role", instruction: str | None
) -> "Floats":
    """Return dense vectors of texts, (n, d)."""
    found = encoder.embed(list(texts), role=role, instruction=instruction, progress=False)
    assert found.dense is not None
    return found.dense
