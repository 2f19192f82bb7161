"""`gte search`: which files answer a query."""

import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opengte.cli.common import errors, output
from opengte.cli.common.options import (
    ModelOptions,
    encoder_options,
    engine_summary,
    json_option,
    note_default_instruction,
)
from opengte.cli.common.progress import progress_bar
from opengte.cli.search.index import IndexOptions, index_options
from opengte.errors import InputError
from opengte.search.adhoc.files import MAX_BYTES, FileText, SkippedText, read_texts

if TYPE_CHECKING:
    from opengte import Encoder
    from opengte.search.adhoc.search import FileHit, FileSearchResult

SHOWN = 280  # characters of a passage that people get to see


@dataclass
class _Left:
    """Skipped files by reason, and the number of failed ones."""

    reasons: Counter[str] = field(default_factory=Counter)
    failed: int = 0


@click.command("search", no_args_is_help=True)
@click.argument("query")
@click.argument(
    "paths",
    nargs=-1,
    type=click.Path(exists=True, path_type=Path),
    metavar="[PATHS]...",
)
@index_options
@click.option(
    "-k",
    "--top",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    metavar="N",
    help="Number of results.",
)
@click.option(
    "--instruction", metavar="TEXT", help="Task description, for models that take instructions."
)
@click.option(
    "--passage-tokens",
    type=click.IntRange(1),
    metavar="N",
    help="Maximum tokens per passage.  [default: the model's limit, at most 512]",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(1),
    default=MAX_BYTES,
    show_default=True,
    metavar="N",
    help="Skip larger files.",
)
@json_option
@encoder_options
def command(
    query: str,
    paths: tuple[Path, ...],
    top: int,
    instruction: str | None,
    passage_tokens: int | None,
    max_bytes: int,
    as_json: bool,
    index: IndexOptions,
    options: ModelOptions,
) -> None:
    """Find the documents that answer a query, in an index or in files.

    With --in, searches an index by meaning and by words. Each result shows its rank in both, and
    its best passage with the words of the query highlighted. Without --in, reads whole documents
    (.txt .md .rst .py .html .json, and each row of .jsonl, .csv and .tsv), splits them into
    passages at paragraphs and sentences, and ranks each document by its best passage. This search
    is exact and embeds everything each time.

    \b
    Examples:
      gte search "how do I undo a commit?" --in kb/
      gte search "parental leave" --in kb/ --where "folder^/home/me/hr" --where "year>=2024"
      gte search "parental leave" --in kb/ --explain hr/handbook.pdf
      gte search "opening hours" site/ handbook.html --top 3 --json
    """
    if index.kb is not None:
        _check_usage(paths, passage_tokens)
        from opengte.cli.search import index as search_index

        search_index.run_search(query, top, instruction, index, options, as_json=as_json)
        return
    if not paths:
        raise click.UsageError("Nothing to search: give PATHS, or an index with --in KB.")
    if index.given:
        raise click.UsageError(f"--{index.given[0]} needs an index: --in KB.")
    from opengte.search.adhoc.search import search_files

    encoder = options.load_encoder()
    left = _Left()
    with progress_bar(" passages") as advance:
        found = search_files(
            encoder,
            query,
            _documents(paths, max_bytes, left),
            k=top,
            instruction=instruction,
            passage_tokens=passage_tokens,
            advance=advance,
        )
    for rank, hit in enumerate(found.hits, 1):
        _print_json(rank, hit) if as_json else _print(rank, hit)
    note_default_instruction(encoder)
    _summarise(found, left, encoder)
    if not found.documents:
        raise InputError(f"no text found in {', '.join(f'`{path}`' for path in paths)}")
    if left.failed:
        raise click.exceptions.Exit(errors.FAILED)


def _check_usage(paths: tuple[Path, ...], passage_tokens: int | None) -> None:
    """Raise UsageError for options that apply to files only."""
    if paths:
        raise click.UsageError("Give either PATHS or --in KB; `gte index` adds files to an index.")
    if passage_tokens is not None:
        raise click.UsageError("--passage-tokens is a setting of an index: see `gte index run`.")


def _documents(paths: tuple[Path, ...], max_bytes: int, left: _Left) -> Iterator[FileText]:
    """Yield documents; report failed files and count skipped ones."""
    for item in read_texts(paths, max_bytes):
        if isinstance(item, FileText):
            yield item
            continue
        if item.failed:
            left.failed += 1
            click.echo(f"error: {_place(item)}: {item.reason}", err=True)
        else:
            left.reasons[item.reason] += 1


def _place(item: FileText | SkippedText) -> str:
    return f"{item.path}:{item.line}" if item.line else str(item.path)


def _print(rank: int, hit: "FileHit") -> None:
    click.echo(f"{rank:3}  {hit.score:.4f}  {_place(hit.document)}")
    text = textwrap.shorten(_passage(hit), SHOWN, placeholder=" …")
    click.echo(textwrap.fill(text, 88, initial_indent=" " * 13, subsequent_indent=" " * 13))


def _print_json(rank: int, hit: "FileHit") -> None:
    output.print_json(
        {
            "rank": rank,
            "score": output.round_score(hit.score),
            "file": str(hit.document.path),
            "line": hit.document.line,
            "start": hit.passage.start,
            "end": hit.passage.end,
            "passage": _passage(hit),
        }
    )


def _passage(hit: "FileHit") -> str:
    return hit.document.text[hit.passage.start : hit.passage.end]


def _summarise(found: "FileSearchResult", left: _Left, encoder: "Encoder") -> None:
    """Print counts of searched and skipped files on stderr."""
    counts = f"{found.documents:,} documents, {found.passages:,} passages"
    parts = [f"searched {counts} {engine_summary(encoder)}"]
    parts += [f"{found.truncated:,} truncated"] * bool(found.truncated)
    parts += [f"{count:,} files skipped ({reason})" for reason, count in left.reasons.items()]
    parts += [f"{left.failed:,} failed"] * bool(left.failed)
    click.echo("; ".join(parts), err=True)
