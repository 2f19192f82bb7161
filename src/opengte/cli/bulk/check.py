"""`gte bulk status` and `gte bulk verify`: how far a run came, and whether its files are right."""

from dataclasses import asdict
from typing import Any

import click

from opengte.cli.common import errors, output
from opengte.cli.common.options import json_option
from opengte.cli.common.progress import progress_bar


@click.command("status", no_args_is_help=True)
@click.argument("place", metavar="OUT")
@json_option
def status_command(place: str, as_json: bool) -> None:
    """Show how far a run came, and why rows failed.

    The run is the latest one of OUT; its rate, the time left and the cost are shown, too.

    \b
    Examples:
      gte bulk status out/
      gte bulk status s3://bucket/out --json
    """
    from opengte.bulk.shards.plan import BulkPlan
    from opengte.bulk.shards.status import run_status

    found = run_status(BulkPlan.open(place))
    if as_json:
        output.print_json(asdict(found))
        return
    click.echo(
        f"{found.state}: {found.shards_done:,} of {found.shards:,} shards, "
        f"{found.rows_done:,} of {found.rows:,} rows, {found.rows_failed:,} failed"
    )
    if found.workers:
        click.echo(
            f"{found.rate:,.0f} tokens a second, {found.rate_of_worker:,.0f} a worker; "
            f"{found.workers:,} workers of {found.drivers:,} runs, "
            f"{found.ended_workers:,} ended"
        )
    if found.seconds_left is not None:
        click.echo(f"{found.seconds_left / 3600:,.2f} hours left")
    if found.cost is not None:
        click.echo(f"cost so far {found.cost:,.2f}")
    for reason, count in found.reasons:
        click.echo(f"{count:,} failed: {reason}")


@click.command("verify", no_args_is_help=True)
@click.argument("place", metavar="OUT")
@click.option(
    "--one-in",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Embed one row in N again, at least 64 rows.",
)
@click.option("--min-cosine", type=click.FloatRange(-1, 1), metavar="X", help="Fail below this.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Number of CPU threads.")
@click.option("--device", metavar="NAME", help="Device: cpu, cuda, ...")
@json_option
def verify_command(
    place: str,
    one_in: int,
    min_cosine: float | None,
    threads: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Check what a run wrote, some rows in fp32.

    Files are compared with their digests, and the vectors of some rows with those in fp32.

    \b
    Examples:
      gte bulk verify out/
      gte bulk verify out/ --min-cosine 0.98
    """
    from opengte.apps.bulk_index import columns_for
    from opengte.bulk.shards.plan import BulkPlan
    from opengte.bulk.shards.verify import verify_run
    from opengte.bulk.shards.worker import WorkerSettings

    plan = BulkPlan.open(place)
    columns = columns_for(plan.options.outputs)
    settings = WorkerSettings(plan.place.url, plan.options, columns, threads=threads, device=device)
    with progress_bar(" rows", total=plan.totals.rows) as advance:
        report = verify_run(plan, settings, one_in=one_in, on_progress=advance)
    row: dict[str, Any] = asdict(report)
    if as_json:
        output.print_json(row)
    else:
        for name, value in row.items():
            click.echo(f"{name.replace('_', ' ')}: {value}")
    low = report.cosine_least is not None and report.cosine_least < (min_cosine or -1)
    if low or not report.sound:
        raise click.exceptions.Exit(errors.FAILED)
