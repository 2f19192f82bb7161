"""`gte cluster`: what texts are about, in groups with names."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import errors
from opengte.cli.common import output as show
from opengte.cli.common.inputs import InputOptions, input_options
from opengte.cli.common.options import (
    ModelOptions,
    TextOptions,
    encoder_options,
    engine_summary,
    json_option,
    text_options,
)
from opengte.cli.common.vectors import (
    TextPreviews,
    check_inputs,
    embed_inputs,
    index_option,
    load_index_vectors,
    write_jsonl,
)

if TYPE_CHECKING:
    from opengte.search.analysis.cluster import Clusters


@click.command("cluster", no_args_is_help=True)
@input_options
@index_option
@click.option(
    "-n",
    "--clusters",
    "count",
    type=click.IntRange(1),
    metavar="N",
    help="Number of clusters.  [default: chosen from the data]",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Random seed of the initial centroids."
)
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
    inputs: InputOptions,
    kb: str | None,
    count: int | None,
    seed: int,
    output: Path | None,
    as_json: bool,
    text: TextOptions,
    options: ModelOptions,
) -> None:
    """Cluster texts, or the documents of an index, by topic.

    Runs spherical k-means on their vectors. Each cluster is named by the words that distinguish its
    texts and shown with its medoid. Outliers belong to no cluster (-1).

    \b
    Examples:
      gte cluster --in kb/
      gte cluster --input questions.txt --clusters 20 --output clusters.jsonl
      gte cluster --input rows.jsonl --text-field body --json
    """
    check_inputs(inputs, kb)
    from opengte.search.analysis.cluster import cluster

    if kb is not None:
        from opengte.search.kb import KnowledgeBase

        previews, vectors = load_index_vectors(KnowledgeBase.open(kb))
        engine = "the index's vectors"
    else:
        previews, vectors, encoder = embed_inputs(inputs, text, options)
        engine = engine_summary(encoder)
    if count is not None and count > len(previews.ids):
        raise click.UsageError(f"--clusters is {count}, but there are {len(previews.ids):,} texts.")
    clusters = cluster(vectors, previews.texts, count=count, seed=seed)
    _print(clusters, previews, as_json=as_json)
    if output is not None:
        write_jsonl(output, (_row(clusters, previews, place) for place in range(len(previews.ids))))
    stray = int((clusters.labels < 0).sum())
    parts = [
        f"{len(previews.ids):,} texts in {len(clusters.names):,} clusters ({engine.strip('()')})"
    ]
    parts += [f"{stray:,} outliers"] * bool(stray)
    parts += [f"{previews.truncated:,} truncated"] * bool(previews.truncated)
    parts += [f"{previews.failed:,} failed"] * bool(previews.failed)
    click.echo("; ".join(parts), err=True)
    if previews.failed:
        raise click.exceptions.Exit(errors.FAILED)


def _print(clusters: "Clusters", previews: TextPreviews, *, as_json: bool) -> None:
    for number, (name, size) in enumerate(zip(clusters.names, clusters.sizes, strict=True)):
        medoid = int(clusters.medoids[number])
        if as_json:
            middle = {"id": previews.ids[medoid], "text": previews.texts[medoid]}
            show.print_json({"cluster": number, "size": size, "name": name, "medoid": middle})
            continue
        click.echo(f"{number:4}  {size:7,}  {name}")
        middle_text = f"{previews.ids[medoid]} {previews.texts[medoid]}"
        click.echo(f"{'':15}{click.style(show.one_line(middle_text, 15), dim=True)}")


def _row(clusters: "Clusters", previews: TextPreviews, place: int) -> dict[str, Any]:
    label = int(clusters.labels[place])
    return {
        "id": previews.ids[place],
        "cluster": label,
        "name": clusters.names[label] if label >= 0 else None,
        "similarity": show.round_score(clusters.similarity[place]),
    }
