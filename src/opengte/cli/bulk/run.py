"""`gte bulk run`: compute the shards of a plan."""

from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import errors
from opengte.cli.common.progress import progress_bar

if TYPE_CHECKING:
    from opengte.bulk.shards.driver import RunReport

SHOWN = 10


@click.command("run", no_args_is_help=True)
@click.argument("place", metavar="OUT")
@click.option(
    "--on",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or actors of a Ray cluster.",
)
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Workers.  [default: 1, or all that fit]"
)
@click.option(
    "--threads", type=click.IntRange(1), metavar="N", help="Threads, or CPUs on Ray, of a worker."
)
@click.option("--gpus", type=click.FloatRange(0), default=0, metavar="N", help="GPUs of a worker.")
@click.option("--device", metavar="NAME", help="Device: cpu, cuda, ...")
@click.option("--address", metavar="ADDRESS", help="Address of the Ray cluster.")
@click.option(
    "--max-failed", type=click.FloatRange(0, 1), metavar="SHARE", help="Stop if more rows failed."
)
@click.option(
    "--price", type=click.FloatRange(0), metavar="X", help="Price of the machines an hour."
)
def command(
    place: str,
    on: str,
    workers: int | None,
    threads: int | None,
    gpus: float,
    device: str | None,
    address: str | None,
    max_failed: float | None,
    price: float | None,
) -> None:
    """Compute the shards of a plan, here or on a Ray cluster.

    It is the latest plan of OUT, or the plan whose folder OUT is. A shard that is there is not
    computed again. Rows that cannot be embedded are set aside in `failed/` with the reason. Several
    runs may work on one plan at the same time.

    \b
    Examples:
      gte bulk run out/
      gte bulk run s3://bucket/out --on ray --address auto --threads 4
    """
    from opengte.apps.bulk_index import columns_for
    from opengte.bulk.shards.driver import run_plan
    from opengte.bulk.shards.plan import BulkPlan
    from opengte.bulk.shards.pools import LocalPool, WorkerPool
    from opengte.bulk.shards.worker import WorkerSettings

    plan = BulkPlan.open(place)
    columns = columns_for(plan.options.outputs)
    settings = WorkerSettings(plan.place.url, plan.options, columns, threads=threads, device=device)

    def pool() -> WorkerPool:
        if on == "local":
            return LocalPool(settings, workers or 1)
        from opengte.bulk.shards.ray_pool import RayPool

        return RayPool(settings, workers, cpus=threads or 1, gpus=gpus, address=address)

    note: dict[str, Any] = {"on": on, "price": price}
    with progress_bar(" rows", total=plan.totals.rows) as advance:
        try:
            report = run_plan(plan, pool, max_failed=max_failed, note=note, on_progress=advance)
        except KeyboardInterrupt as interruption:
            interruption.add_note("the same command continues from here")
            raise
    _summarise(report)


def _summarise(report: "RunReport") -> None:
    """Print counts on stderr; exit with 1 if a row or a shard failed."""
    counts = report.counts
    parts = [f"{counts.written:,} rows in {report.shards:,} shards"]
    parts += ["all of it was there"] * report.was_done
    parts += [f"{counts.computed:,} texts of {counts.tokens:,} tokens computed"]
    parts += [f"{counts.truncated:,} truncated"] * bool(counts.truncated)
    parts += [f"{report.ended_workers:,} workers ended"] * bool(report.ended_workers)
    parts += [f"{counts.failed:,} failed"] * bool(counts.failed)
    click.echo("; ".join(parts), err=True)
    for number, reason in report.failed_shards[:SHOWN]:
        click.echo(f"error: shard {number}: {reason}", err=True)
    if len(report.failed_shards) > SHOWN:
        click.echo(f"error: {len(report.failed_shards):,} shards failed in all", err=True)
    if counts.failed or report.failed_shards:
        raise click.exceptions.Exit(errors.FAILED)
