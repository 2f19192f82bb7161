"""`gte rerank`: these documents, in the order of how well they answer the query."""

import click

from opengte.bulk import InvalidRow
from opengte.cli.common import errors, output
from opengte.cli.common.inputs import InputOptions, input_options, report_invalid
from opengte.cli.common.options import (
    ModelOptions,
    json_option,
    note_default_instruction,
    reranker_options,
)


@click.command("rerank", no_args_is_help=True)
@click.argument("query")
@input_options
@click.option(
    "-k", "--top", type=click.IntRange(1), metavar="N", help="Print only the N best documents."
)
@click.option(
    "--instruction", metavar="TEXT", help="Task description, for models that take instructions."
)
@json_option
@reranker_options
def command(
    query: str,
    inputs: InputOptions,
    top: int | None,
    instruction: str | None,
    as_json: bool,
    options: ModelOptions,
) -> None:
    """Rank documents by how well they answer a query.

    A reranker reads the query and a document together, which is slower and more accurate than
    comparing vectors. Documents come from the command line, from stdin (`-`) or from a file.

    \b
    Examples:
      gte rerank -m Alibaba-NLP/gte-reranker-modernbert-base "capital of China" Beijing Paris
      gte rerank -m BAAI/bge-reranker-v2-m3 "opening hours" --input passages.jsonl --top 3 --json
    """
    inputs.check()
    source = inputs.source()
    rows, failed = [], 0
    for row in source.rows():
        if isinstance(row, InvalidRow):
            report_invalid(source, row)
            failed += 1
        else:
            rows.append(row)
    reranker = options.load_reranker()
    texts = [row.text for row in rows]
    for rank, ranked in enumerate(reranker.rank(query, texts, top, instruction=instruction), 1):
        row = rows[ranked.index]
        if as_json:
            score = output.round_score(ranked.score)
            output.print_json({"rank": rank, "score": score, "id": row.id, "text": row.text})
        else:
            label = output.one_line(f"{row.id}  {row.text}", 15)
            click.echo(f"{rank:3}  {ranked.score:8.4f}  {label}")
    note_default_instruction(reranker)
    if failed:
        click.echo(f"ranked {len(rows):,} documents; {failed:,} failed", err=True)
        raise click.exceptions.Exit(errors.FAILED)
