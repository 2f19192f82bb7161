"""`gte index check`: what is damaged in an index, and mending it."""

from dataclasses import asdict

import click

from opengte.cli.common import errors, output
from opengte.cli.common.knowledge_base import encoder_loader
from opengte.cli.common.options import ModelOptions, encoder_options, json_option
from opengte.cli.index.status import knowledge_base_argument


@click.command("check", no_args_is_help=True)
@knowledge_base_argument
@click.option("--dry-run", is_flag=True, help="Only report what is damaged.")
@json_option
@encoder_options
def command(kb: str, dry_run: bool, as_json: bool, options: ModelOptions) -> None:
    """Check every file and document of an index, and mend it.

    Compares each file with the checksum that was recorded when it was written. Search indexes are
    rebuilt; damaged tables are copied without what cannot be read, and that is read again from the
    files of the documents. Status 1: something is damaged (--dry-run), or documents are lost.

    \b
    Examples:
      gte index check kb/
      gte index check kb/ --dry-run
    """
    from opengte.search.kb import KnowledgeBase

    report = KnowledgeBase.check(kb, load=encoder_loader(options), repair=not dry_run)
    if as_json:
        output.print_json(asdict(report))
    else:
        for place, reason in report.damage:
            click.echo(f"damaged: {place}: {reason}")
        for what in report.mended:
            click.echo(f"mended: {what}")
        for what in report.lost:
            click.echo(f"lost: {what}")
    count = f"{report.files:,} files and {report.documents:,} documents"
    click.echo(f"checked {count}: {len(report.damage):,} damaged", err=True)
    if report.lost or (dry_run and report.damage):
        raise click.exceptions.Exit(errors.FAILED)
