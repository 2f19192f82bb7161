"""`gte bulk`: many files to vectors on many machines, and into an index."""

import click

from opengte.cli.common.groups import LazyGroup

COMMANDS = {
    "plan": ("bulk.plan:command", "Plan how the rows of files become vectors, and what it takes."),
    "run": ("bulk.run:command", "Compute the shards of a plan, here or on a Ray cluster."),
    "status": ("bulk.check:status_command", "Show how far a run came, and why rows failed."),
    "verify": ("bulk.check:verify_command", "Check what a run wrote, some rows in fp32."),
    "load": ("bulk.load:command", "Load the passages of a run into an index."),
}


@click.group("bulk", cls=LazyGroup, table=COMMANDS)
def command() -> None:
    """Embed many files on one or many machines, and index them.

    Files and output are local or at URLs, such as s3://bucket/folder. A run that is interrupted
    goes on when the command is repeated, on any machine.

    \b
    Examples:
      gte bulk plan documents/ out/ --outputs passages --title-field title
      gte bulk run out/ --on ray
      gte bulk load out/ --to kb/
    """
