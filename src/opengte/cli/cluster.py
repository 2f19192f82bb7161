"""`gte cluster`: what texts are about, in groups with names."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import errors
from opengte.cli.common import output as show
from opengte.cli.common import vectors as gathered
from opengte.cli.common.inputs import Input, input_options
from opengte.cli.common.options import (
    ModelOptions,
    TextOptions,
    encoder_options,
    engine_of,
    json_option,
    text_options,
)

if TYPE_CHECKING:
    from opengte.search.analysis.cluster import Clusters


@click.command("cluster", no_args_is_help=True)
@input_options
@gathered.index_option
@click.option(
    "-n",
    "--clusters",
    "count",
    type=click.IntRange(1),
    metavar="N",
    help="How many.  [default: the clearest number]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of where to start.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the cluster of each text to this .jsonl file.",
)
@json_option
@text_options
@encoder_options
def command(
    source: Input,
    kb: str | None,
    count: int | None,
    seed: int,
    output: Path | None,
    as_json: bool,
    text: TextOptions,
    options: ModelOptions,
) -> None:
    """Group texts, or the documents of an index, by what they are about.

    Spherical k-means over their vectors. A group is named by words that its texts have and others
    have not; the text in its middle is shown. Texts far from every group are in none (-1).

    \b
    Examples:
      gte cluster --in kb/
      gte cluster --input questions.txt --clusters 20 --output clusters.jsonl
      gte cluster --input rows.jsonl --text-field body --json
    """
    gathered.check(source, kb)
    from opengte.search.analysis.cluster import cluster

    if kb is not None:
        from opengte.search.kb import KnowledgeBase

        rows, vectors = gathered.portrayed(KnowledgeBase.open(kb))
        engine = "the index's vectors"
    else:
        rows, vectors, encoder = gathered.embedded(source, text, options)
        engine = engine_of(encoder)
    if count is not None and count > len(rows.ids):
        raise click.UsageError(f"--clusters is {count}, but there are {len(rows.ids):,} texts.")
    found = cluster(vectors, rows.heads, count=count, seed=seed)
    _print(found, rows, as_json=as_json)
    if output is not None:
        gathered.written(output, (_row(found, rows, place) for place in range(len(rows.ids))))
    stray = int((found.labels < 0).sum())
    parts = [f"{len(rows.ids):,} texts in {len(found.names):,} clusters ({engine.strip('()')})"]
    parts += [f"{stray:,} in none"] * bool(stray)
    parts += [f"{rows.truncated:,} truncated"] * bool(rows.truncated)
    parts += [f"{rows.failed:,} failed"] * bool(rows.failed)
    click.echo("; ".join(parts), err=True)
    if rows.failed:
        raise click.exceptions.Exit(errors.FAILED)


def _print(found: "Clusters", rows: gathered.Gathered, *, as_json: bool) -> None:
    for number, (name, size) in enumerate(zip(found.names, found.sizes, strict=True)):
        medoid = int(found.medoids[number])
        if as_json:
            middle = {"id": rows.ids[medoid], "text": rows.heads[medoid]}
            show.json_line({"cluster": number, "size": size, "name": name, "medoid": middle})
            continue
        click.echo(f"{number:4}  {size:7,}  {name}")
        middle_text = f"{rows.ids[medoid]} {rows.heads[medoid]}"
        click.echo(f"{'':15}{click.style(show.one_line(middle_text, 15), dim=True)}")


def _row(found: "Clusters", rows: gathered.Gathered, place: int) -> dict[str, Any]:
    label = int(found.labels[place])
    return {
        "id": rows.ids[place],
        "cluster": label,
        "name": found.names[label] if label >= 0 else None,
        "similarity": show.score(found.similarity[place]),
    }
