"""`gte bulk load`: the passages of a run into an index."""

import click

from opengte.cli.common.progress import progress_bar

WRITERS = 4  # for servers, which write in parallel; a folder has one writer


@click.command("load", no_args_is_help=True)
@click.argument("place", metavar="OUT")
@click.option("--to", "kb", required=True, metavar="KB", help="Location of the index.")
@click.option("--writers", type=click.IntRange(1), metavar="N", help="Shards loaded at a time.")
@click.option("--language", default="English", metavar="NAME", help="For stemming, or `none`.")
@click.option("--instruction", metavar="TEXT", help="Task description for all queries.")
@click.option(
    "--first-pass", type=click.IntRange(1), metavar="N", help="Dimensions that find candidates."
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Number of CPU threads.")
def command(
    place: str,
    kb: str,
    writers: int | None,
    language: str,
    instruction: str | None,
    first_pass: int | None,
    threads: int | None,
) -> None:
    """Load the passages of a run into an index.

    The index is in a folder, a bucket, PostgreSQL or Qdrant. It is made if it is not there; it
    answers as if `gte index` had made it. A document that is there already is left, so that the
    command can be repeated.

    \b
    Examples:
      gte bulk load out/ --to kb/
      gte bulk load s3://bucket/out --to "postgresql://host/db?schema=kb"
    """
    from opengte.apps.bulk_index import load_run, open_target
    from opengte.bulk.shards.plan import BulkPlan

    plan = BulkPlan.open(place)
    language_or_none = None if language.lower() == "none" else language
    index = open_target(
        plan,
        kb,
        language=language_or_none,
        instruction=instruction,
        first_pass=first_pass,
        threads=threads,
    )
    several = kb.partition("://")[0] in ("postgresql", "postgres", "qdrant", "http", "https")
    with progress_bar(" rows", total=plan.totals.rows) as advance:
        report = load_run(
            plan, index, writers=writers or (WRITERS if several else 1), on_progress=advance
        )
    click.echo(
        f"{report.new:,} new, {report.changed:,} changed, {report.unchanged:,} unchanged documents",
        err=True,
    )
    for reason in report.upkeep:
        click.echo(f"warning: maintenance failed: {reason}", err=True)
