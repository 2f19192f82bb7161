"""`gte data show`: what a folder of shards holds."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from opengte.cli.common import output
from opengte.cli.common.options import json_option
from opengte.cli.data.options import count_type

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opengte.data import Dataset, DatasetSource


@click.command("show", no_args_is_help=True)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--rows", type=count_type, metavar="N", help="Print the first N rows of each source.")
@click.option("--source", metavar="NAME", help="Show only this source.")
@click.option("--check", is_flag=True, help="Verify the checksums of all shards.")
@click.option("--step", type=click.IntRange(0), metavar="N", help="Print the batch of this step.")
@click.option("--batch", type=count_type, default=64, show_default=True, help="Rows per batch.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Random seed of the order of batches."
)
@click.option(
    "--alpha",
    type=float,
    default=0.5,
    show_default=True,
    help="Exponent for sampling sources by size.",
)
@click.option("-m", "--model", metavar="MODEL", help="Model whose tokenizer decodes token ids.")
@json_option
def command(
    folder: Path,
    rows: int | None,
    source: str | None,
    check: bool,
    step: int | None,
    batch: int,
    seed: int,
    alpha: float,
    model: str | None,
    as_json: bool,
) -> None:
    """Show the contents of a folder of shards: sources, rows, batches.

    \b
    Examples:
      gte data show data/
      gte data show data/ --rows 3 --model minilm
      gte data show data/ --step 1200 --batch 256 --seed 1 --json
    """
    from opengte import checkpoint as checkpoints
    from opengte.data import BatchSampler, Dataset

    tokenizer = checkpoints.read_checkpoint(model).tokenizer if model is not None else None
    dataset = Dataset.open(folder, None if tokenizer is None else tokenizer.fingerprint)
    if check:
        dataset.check()
        click.echo("all shards match their checksums", err=True)
    decode = _raw if tokenizer is None else tokenizer.decode
    chosen = _chosen(dataset, source)
    if step is not None:
        draw = BatchSampler.of(dataset, seed=seed, batch=batch, alpha=alpha, small="drop").at(step)
        _print_rows(dataset.sources[draw.source], draw.rows.tolist(), decode, as_json)
    elif rows is not None:
        for one in chosen:
            _print_rows(one, range(min(rows, one.rows)), decode, as_json)
    else:
        _print_sources(chosen, as_json)


def _raw(ids: "Sequence[int]") -> str:
    return " ".join(map(str, ids))


def _chosen(dataset: "Dataset", name: str | None) -> "list[DatasetSource]":
    found = [one for one in dataset.sources if name in (None, one.name)]
    if not found:
        names = ", ".join(one.name for one in dataset.sources)
        raise click.UsageError(f"There is no source `{name}`; expected one of {names}.")
    return found


def _print_sources(sources: "list[DatasetSource]", as_json: bool) -> None:
    header = ("source", "kind", "rows", "texts", "tokens", "in-batch", "weight", "instruction")
    rows = []
    for one in sources:
        texts = sum(len(shard.hashes) for shard in one.shards)
        tokens = sum(len(shard.ids) for shard in one.shards)
        negatives = "yes" if one.in_batch_negatives else "no"
        about = (one.name, one.kind, one.rows, texts, tokens, negatives, f"{one.weight:g}")
        rows.append((*about, one.instruction))
    if not as_json:
        output.print_table(header, rows)
        return
    for row in rows:
        output.print_json(dict(zip(header, row, strict=True)))


def _print_rows(
    source: "DatasetSource",
    rows: "Sequence[int]",
    decode: "Callable[[Sequence[int]], str]",
    as_json: bool,
) -> None:
    """Print rows: where each came from, and its texts as they were tokenised."""
    for number in rows:
        own = source.get([number])
        file, place = source.origin(number)
        parts = (("query", own.queries), ("positive", own.positives), ("negative", own.negatives))
        texts = {
            side: [
                decode(source.shards[shard].text_ids(text).tolist())
                for shard, text in zip(slots.shards.tolist(), slots.texts.tolist(), strict=True)
            ]
            for side, slots in parts
        }
        if as_json:
            output.print_json(
                {"source": source.name, "row": number, "file": file, "place": place, **texts}
            )
            continue
        click.echo(f"{source.name} {number:,} ({file}:{place})")
        for side, lines in texts.items():
            for line in lines:
                click.echo(f"  {side:8} {output.one_line(line, 12)}")
