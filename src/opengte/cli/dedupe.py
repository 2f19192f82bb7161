"""`gte dedupe`: texts that are there more than once."""

import bisect
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from opengte.atomic_files import atomic_write
from opengte.bulk import RowSource, TextRow
from opengte.bulk.formats import input_format
from opengte.bulk.parquet import require_pyarrow
from opengte.bulk.text import LINE_LIMIT
from opengte.cli.common import errors
from opengte.cli.common import output as show
from opengte.cli.common.inputs import InputOptions, input_options
from opengte.cli.common.options import (
    ModelOptions,
    TextOptions,
    encoder_options,
    json_option,
    text_options,
)
from opengte.cli.common.vectors import (
    TextPreviews,
    check_inputs,
    embed_inputs,
    index_option,
    load_index_vectors,
    usable_rows,
    write_jsonl,
)

if TYPE_CHECKING:
    from opengte.search.analysis.dedupe import Duplicates
    from opengte.search.kb import KnowledgeBase

COSINE = 0.95  # from which two texts mean the same, unless told otherwise


@click.command("dedupe", no_args_is_help=True)
@input_options
@index_option
@click.option(
    "--by",
    type=click.Choice(["exact", "words", "meaning"]),
    default="words",
    show_default=True,
    help="Criterion: equal except for white space (exact), nearly the same words by "
    "MinHash (words), or close vectors (meaning).",
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
    help="Write the distinct rows: input rows unchanged, documents of an index as .jsonl.",
)
@json_option
@text_options
@encoder_options
def command(
    inputs: InputOptions,
    kb: str | None,
    by: str,
    threshold: float | None,
    output: Path | None,
    as_json: bool,
    text: TextOptions,
    options: ModelOptions,
) -> None:
    """Find duplicate texts and keep the first of each group.

    Prints each text that is kept, and its duplicates with their similarity. An index is not
    changed.

    \b
    Examples:
      gte dedupe --input rows.jsonl --output distinct.jsonl
      gte dedupe --input questions.txt --by meaning --threshold 0.9
      gte dedupe --in kb/ --by words --json
    """
    check_inputs(inputs, kb)
    if threshold is not None and by != "meaning":
        raise click.UsageError("--threshold needs --by meaning.")
    if output is not None and kb is None:
        _check_output(inputs, output)
    if kb is not None:
        from opengte.search.kb import KnowledgeBase

        base = KnowledgeBase.open(kb)
        previews, duplicates = _in_index(base, by, threshold or COSINE)
    elif by == "meaning":
        from opengte.search.analysis.dedupe import semantic_duplicates

        previews, vectors, _ = embed_inputs(inputs, text, options)
        duplicates = semantic_duplicates(vectors, threshold or COSINE)
    else:
        previews, duplicates = _in_words(inputs.source(), by)
    _print(previews, duplicates, as_json=as_json)
    if output is not None:
        _write(inputs, base if kb is not None else None, previews, duplicates, output)
    groups, kept = duplicates.groups, len(duplicates.kept)
    parts = [
        f"{len(previews.ids):,} texts: {kept:,} kept, {len(previews.ids) - kept:,} duplicates in "
        f"{len(groups):,} groups"
    ]
    parts += [f"{previews.truncated:,} truncated"] * bool(previews.truncated)
    parts += [f"{previews.failed:,} failed"] * bool(previews.failed)
    click.echo("; ".join(parts), err=True)
    if previews.failed:
        raise click.exceptions.Exit(errors.FAILED)


def _check_output(inputs: InputOptions, output: Path) -> None:
    """Refuse an output that cannot hold the rows as they are, before anything slow is done."""
    if inputs.path is None:
        return
    if output.exists() and output.samefile(inputs.path):
        raise click.UsageError(f"--output and --input are the same file: {output}")
    if input_format(output) != inputs.format:
        raise click.UsageError(
            f"--output {output} is {input_format(output)}, but the rows are {inputs.format}: "
            "rows are written unchanged"
        )


# --- which are there twice -----------------------------------------------------------------------


def _in_words(source: RowSource, by: str) -> "tuple[TextPreviews, Duplicates]":
    from opengte.search import minhash
    from opengte.search.analysis import dedupe

    previews = TextPreviews.of(source)
    digests, signatures = [], []
    for row in usable_rows(source, previews):
        digests.append(dedupe.text_digest(row.text))
        if by == "words":
            signatures.append(minhash.signature(row.text))
    if by == "exact":
        return previews, dedupe.exact_duplicates(digests)
    return previews, dedupe.near_duplicates(digests, signatures)


def _in_index(
    base: "KnowledgeBase", by: str, threshold: float
) -> "tuple[TextPreviews, Duplicates]":
    from opengte.search.analysis import dedupe

    if by == "meaning":
        previews, vectors = load_index_vectors(base)
        return previews, dedupe.semantic_duplicates(vectors, threshold)
    previews, digests, signatures = TextPreviews(), [], []
    for number, document in enumerate(base.store.scan(), 1):
        previews.add(TextRow(number, document.id, document.text))
        digests.append(dedupe.text_digest(document.text))
        signatures.append(document.signature)
    if by == "exact":
        return previews, dedupe.exact_duplicates(digests)
    return previews, dedupe.near_duplicates(digests, signatures)


def _print(previews: TextPreviews, duplicates: "Duplicates", *, as_json: bool) -> None:
    for kept, *others in duplicates.groups:
        if as_json:
            copies = [
                {
                    "id": previews.ids[row],
                    "similarity": show.round_score(duplicates.similarity[row]),
                }
                for row in others
            ]
            show.print_json({"kept": previews.ids[kept], "duplicates": copies})
            continue
        click.echo(show.one_line(f"{previews.ids[kept]} {previews.texts[kept]}"))
        for row in others:
            alike = f"{duplicates.similarity[row]:.2f}"
            click.echo(
                f"  {alike}  {show.one_line(f'{previews.ids[row]} {previews.texts[row]}', 8)}"
            )


# --- what is kept --------------------------------------------------------------------------------


def _write(
    inputs: InputOptions,
    base: "KnowledgeBase | None",
    previews: TextPreviews,
    duplicates: "Duplicates",
    output: Path,
) -> None:
    kept = duplicates.kept
    if base is not None:
        ids = {previews.ids[row] for row in kept}
        write_jsonl(output, _documents(base, ids))
    elif inputs.path is None:  # given on the command line or by a pipe: only the texts are known
        write_jsonl(
            output, ({"id": previews.ids[row], "text": previews.texts[row]} for row in kept)
        )
    else:
        numbers = {previews.numbers[row] for row in kept}
        keeps: Kept = numbers.__contains__
        if inputs.format in ("csv", "tsv"):
            keeps = _kept_lines(inputs.source(), numbers)
        copy = _copy_parquet if inputs.format == "parquet" else _copy_lines
        with atomic_write(output) as part:
            copy(inputs.path, part, keeps, packed=output.suffix == ".gz")


def _documents(base: "KnowledgeBase", ids: "set[str | int]") -> Iterator[dict[str, Any]]:
    for document in base.store.scan():
        if document.id in ids:
            yield {
                "id": document.id,
                "title": document.title,
                "text": document.text,
                "metadata": dict(document.metadata),
            }


Kept = Callable[[int], bool]


def _kept_lines(source: RowSource, numbers: set[int]) -> Kept:
    """Return which lines of a table are kept: those of the header and of the rows that are.

    A row has the number of its first line, and may go on for several.
    """
    starts = [row.number for row in source.rows()]

    def kept(line: int) -> bool:
        place = bisect.bisect_right(starts, line)
        return place == 0 or starts[place - 1] in numbers

    return kept


def _copy_lines(path: Path, output: Path, kept: Kept, *, packed: bool) -> None:
    """Copy the lines of a file whose numbers are kept, byte for byte."""
    reader: Any = gzip.open if path.suffix == ".gz" else open
    writer: Any = gzip.open if packed else open
    with reader(path, "rb") as lines, writer(output, "wb") as file:
        _copy(lines, file, kept)


def _copy(lines: IO[bytes], file: IO[bytes], kept: Kept) -> None:
    number, fresh = 0, True
    while part := lines.readline(LINE_LIMIT):
        number += fresh
        if kept(number):
            file.write(part)
        fresh = part.endswith(b"\n")


def _copy_parquet(path: Path, output: Path, kept: Kept, *, packed: bool) -> None:
    """Copy the rows of a table whose numbers are kept, all columns of them."""
    pyarrow = require_pyarrow("writing Parquet")
    parquet = pyarrow.parquet
    with parquet.ParquetFile(path) as table:
        with parquet.ParquetWriter(output, table.schema_arrow, compression="zstd") as writer:
            start = 0
            for batch in table.iter_batches(batch_size=1024):
                mask = [kept(start + place + 1) for place in range(len(batch))]
                start += len(batch)
                whole = pyarrow.Table.from_batches([batch])
                writer.write_table(whole.filter(pyarrow.array(mask, pyarrow.bool_())))
