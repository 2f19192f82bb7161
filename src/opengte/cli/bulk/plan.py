"""`gte bulk plan`: what a run would do and cost."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import output
from opengte.cli.common.options import (
    ModelOptions,
    TextOptions,
    encoder_options,
    json_option,
    text_options,
)
from opengte.cli.common.progress import progress_bar

if TYPE_CHECKING:
    from opengte.bulk.shards.plan import BulkPlan


@click.command("plan", no_args_is_help=True)
@click.argument("source", metavar="IN")
@click.argument("place", metavar="OUT")
@click.option(
    "--outputs",
    default="dense",
    show_default=True,
    metavar="LIST",
    help="Comma-separated: dense, sparse; or passages, which `gte bulk load` needs.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8", "binary"]),
    default="float32",
    show_default=True,
    help="Type of dense vectors; int8 and binary have scales.",
)
@click.option("--text-field", metavar="NAME", help="Field or column with the text.")
@click.option("--id-field", metavar="NAME", help="Field or column with the row's id.")
@click.option("--title-field", metavar="NAME", help="Field or column with the title (passages).")
@click.option("--keep", multiple=True, metavar="NAME", help="Further column to keep; repeatable.")
@click.option(
    "--shard-tokens",
    type=click.IntRange(1),
    default=2**21,
    show_default=True,
    metavar="N",
    help="Tokens of a shard.",
)
@click.option(
    "--machines", type=click.IntRange(1), default=1, metavar="N", help="Machines like this one."
)
@click.option("--price", type=click.FloatRange(0), metavar="X", help="Price of a machine an hour.")
@json_option
@text_options
@encoder_options
def command(
    source: str,
    place: str,
    machines: int,
    price: float | None,
    as_json: bool,
    text: TextOptions,
    options: ModelOptions,
    **values: Any,
) -> None:
    """Plan how the rows of files become vectors, and what it takes.

    Reads Parquet, JSON Lines, CSV and Lance: a file, a folder or a pattern, local or at a URL. The
    plan is a file below OUT. The rate is measured here, on rows of the input.

    \b
    Examples:
      gte bulk plan documents/ out/ --text-field body --keep year
      gte bulk plan s3://bucket/rows s3://bucket/out --dtype int8 --machines 20 --price 0.9
    """
    from opengte.apps.bulk_index import columns_for
    from opengte.bulk.shards.plan import BulkOptions
    from opengte.bulk.shards.planner import plan_run

    outputs = tuple(name.strip() for name in values.pop("outputs").split(","))
    chosen = BulkOptions(
        model=options.name,
        revision=options.revision,
        offline=options.offline,
        outputs=outputs,
        **values,
        **vars(text),
    )
    encoder = options.load_encoder()
    with progress_bar(" rows") as advance:
        plan = plan_run(
            encoder,
            source,
            place,
            chosen,
            columns=columns_for(outputs),
            on_progress=advance,
        )
    row = _estimate(plan, machines, price)
    if as_json:
        output.print_json(row)
    else:
        _print(row)


def _estimate(plan: "BulkPlan", machines: int, price: float | None) -> dict[str, Any]:
    totals = plan.totals
    texts = totals.rows - totals.invalid
    hours = totals.to_compute / plan.rate / 3600 / machines if plan.rate else 0.0
    return {
        "plan": plan.place.url,
        **asdict(totals),
        "duplicates_share": 1 - totals.distinct / max(1, texts),
        "truncated_share": totals.truncated / max(1, texts),
        "tokens_per_second": plan.rate,
        "machines": machines,
        "hours": hours,
        "cost": None if price is None else hours * machines * price,
    }


def _print(row: dict[str, Any]) -> None:
    """Print a plan for people."""
    texts = row["rows"] - row["invalid"]
    click.echo(f"{texts:,} texts, {row['tokens']:,} tokens in {row['files']:,} files")
    if row["invalid"]:
        click.echo(f"{row['invalid']:,} rows have no text that can be read")
    click.echo(f"{row['duplicates_share']:.1%} duplicates, {row['truncated_share']:.1%} truncated")
    if row["earlier"]:
        click.echo(f"{row['earlier']:,} texts have vectors from an earlier run")
    cost = "" if row["cost"] is None else f", cost {row['cost']:,.2f}"
    machines = f"{row['machines']:,} machine{'s' * (row['machines'] > 1)}"
    click.echo(
        f"{row['to_compute']:,} tokens to compute at {row['tokens_per_second']:,.0f} a second and "
        f"machine: {row['hours']:,.2f} hours on {machines}{cost}"
    )
    click.echo(f"{row['shards']:,} shards; plan: {row['plan']}")
