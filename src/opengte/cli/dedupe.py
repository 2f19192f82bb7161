"""`gte dedupe`: texts that are there more than once."""

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from opengte.bulk import rows
from opengte.cli.common import errors
from opengte.cli.common import output as show
from opengte.cli.common import vectors as gathered
from opengte.cli.common.inputs import Input, input_options
from opengte.cli.common.options import (
    ModelOptions,
    TextOptions,
    encoder_options,
    json_option,
    text_options,
)
from opengte.cli.common.vectors import Gathered
from opengte.errors import MissingExtraError

if TYPE_CHECKING:
    from opengte.search.analysis.dedupe import Duplicates
    from opengte.search.kb import KnowledgeBase

COSINE = 0.95  # from which two texts mean the same, unless told otherwise
Found = tuple[Gathered, "Duplicates"]


@click.command("dedupe", no_args_is_help=True)
@input_options
@gathered.index_option
@click.option(
    "--by",
    type=click.Choice(["exact", "words", "meaning"]),
    default="words",
    show_default=True,
    help="Equal but for white space; nearly the same words (MinHash); close vectors.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="X",
    help=f"Cosine from which texts mean the same.  [default: {COSINE}]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what is kept: rows of the input as they are, documents of an index as .jsonl.",
)
@json_option
@text_options
@encoder_options
def command(
    source: Input,
    kb: str | None,
    by: str,
    threshold: float | None,
    output: Path | None,
    as_json: bool,
    text: TextOptions,
    options: ModelOptions,
) -> None:
    """Find texts that are there more than once, and keep the first of each.

    Prints each text that is kept and those that it stands for, with how alike they are. An index is
    not changed.

    \b
    Examples:
      gte dedupe --input rows.jsonl --output distinct.jsonl
      gte dedupe --input questions.txt --by meaning --threshold 0.9
      gte dedupe --in kb/ --by words --json
    """
    gathered.check(source, kb)
    if threshold is not None and by != "meaning":
        raise click.UsageError("--threshold needs --by meaning.")
    if output is not None and kb is None:
        _check_output(source, output)
    if kb is not None:
        from opengte.search.kb import KnowledgeBase

        base = KnowledgeBase.open(kb)
        found, duplicates = _in_index(base, by, threshold or COSINE)
    elif by == "meaning":
        from opengte.search.analysis.dedupe import meaning

        found, vectors, _ = gathered.embedded(source, text, options)
        duplicates = meaning(vectors, threshold or COSINE)
    else:
        found, duplicates = _in_words(source, by)
    _print(found, duplicates, as_json=as_json)
    if output is not None:
        _write(source, base if kb is not None else None, found, duplicates, output)
    groups, kept = duplicates.groups, len(duplicates.kept)
    parts = [
        f"{len(found.ids):,} texts: {kept:,} kept, {len(found.ids) - kept:,} duplicates in "
        f"{len(groups):,} groups"
    ]
    parts += [f"{found.truncated:,} truncated"] * bool(found.truncated)
    parts += [f"{found.failed:,} failed"] * bool(found.failed)
    click.echo("; ".join(parts), err=True)
    if found.failed:
        raise click.exceptions.Exit(errors.FAILED)


def _check_output(source: Input, output: Path) -> None:
    """Refuse an output that cannot hold the rows as they are, before anything slow is done."""
    if source.path is None:
        return
    if output.exists() and output.samefile(source.path):
        raise click.UsageError(f"--output and --input are the same file: {output}")
    if rows.format_of(output) != source.format:
        raise click.UsageError(
            f"--output {output} is {rows.format_of(output)}, but the rows are {source.format}: "
            "rows are written as they are"
        )


# --- which are there twice -----------------------------------------------------------------------


def _in_words(source: Input, by: str) -> "Found":
    from opengte.search import minhash
    from opengte.search.analysis import dedupe

    found = Gathered.of(source)
    digests, signatures = [], []
    for row in gathered.rows_of(source, found):
        digests.append(dedupe.digest(row.text))
        if by == "words":
            signatures.append(minhash.signature(row.text))
    if by == "exact":
        return found, dedupe.exact(digests)
    return found, dedupe.words(digests, signatures)


def _in_index(base: "KnowledgeBase", by: str, threshold: float) -> "Found":
    from opengte.search.analysis import dedupe

    if by == "meaning":
        found, vectors = gathered.portrayed(base)
        return found, dedupe.meaning(vectors, threshold)
    found, digests, signatures = Gathered(), [], []
    for number, one in enumerate(base.store.scan(), 1):
        found.add(rows.Row(number, one.id, one.text))
        digests.append(dedupe.digest(one.text))
        signatures.append(one.signature)
    if by == "exact":
        return found, dedupe.exact(digests)
    return found, dedupe.words(digests, signatures)


def _print(found: Gathered, duplicates: "Duplicates", *, as_json: bool) -> None:
    for kept, *others in duplicates.groups:
        if as_json:
            copies = [
                {"id": found.ids[row], "similarity": show.score(duplicates.similarity[row])}
                for row in others
            ]
            show.json_line({"kept": found.ids[kept], "duplicates": copies})
            continue
        click.echo(show.one_line(f"{found.ids[kept]} {found.heads[kept]}"))
        for row in others:
            alike = f"{duplicates.similarity[row]:.2f}"
            click.echo(f"  {alike}  {show.one_line(f'{found.ids[row]} {found.heads[row]}', 8)}")


# --- what is kept --------------------------------------------------------------------------------


def _write(
    source: Input,
    base: "KnowledgeBase | None",
    found: Gathered,
    duplicates: "Duplicates",
    output: Path,
) -> None:
    kept = duplicates.kept
    if base is not None:
        ids = {found.ids[row] for row in kept}
        gathered.written(output, _documents(base, ids))
    elif source.path is None:  # given on the command line or by a pipe: only the texts are known
        gathered.written(output, ({"id": found.ids[row], "text": found.heads[row]} for row in kept))
    else:
        numbers = {found.numbers[row] for row in kept}
        copy = _copy_parquet if source.format == "parquet" else _copy_lines
        part = output.with_name(output.name + ".part")
        copy(source.path, part, numbers.__contains__, packed=output.suffix == ".gz")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, output)


def _documents(base: "KnowledgeBase", ids: "set[str | int]") -> Iterator[dict[str, Any]]:
    for one in base.store.scan():
        if one.id in ids:
            yield {
                "id": one.id,
                "title": one.title,
                "text": one.text,
                "metadata": dict(one.metadata),
            }


Kept = Callable[[int], bool]


def _copy_lines(path: Path, output: Path, kept: Kept, *, packed: bool) -> None:
    """Copy the lines of a file whose numbers are kept, byte for byte."""
    reader: Any = gzip.open if path.suffix == ".gz" else open
    writer: Any = gzip.open if packed else open
    with reader(path, "rb") as lines, writer(output, "wb") as file:
        _copy(lines, file, kept)


def _copy(lines: IO[bytes], file: IO[bytes], kept: Kept) -> None:
    number, fresh = 0, True
    while part := lines.readline(rows.LINE_LIMIT):
        number += fresh
        if kept(number):
            file.write(part)
        fresh = part.endswith(b"\n")


def _copy_parquet(path: Path, output: Path, kept: Kept, *, packed: bool) -> None:
    """Copy the rows of a table whose numbers are kept, all columns of them."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "writing Parquet") from error
    with parquet.ParquetFile(path) as table:
        with parquet.ParquetWriter(output, table.schema_arrow, compression="zstd") as writer:
            start = 0
            for batch in table.iter_batches(batch_size=1024):
                mask = [kept(start + place + 1) for place in range(len(batch))]
                start += len(batch)
                whole = pyarrow.Table.from_batches([batch])
                writer.write_table(whole.filter(pyarrow.array(mask, pyarrow.bool_())))
