"""`gte index`: documents into an index, and what state it is in."""

import click

from opengte.cli.index import calibrate, run, status, switch


class _Indexing(click.Group):
    """A group that accepts paths in place of a subcommand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `gte index PATHS ...` as `gte index run PATHS ...`."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("index", cls=_Indexing, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Build, inspect and maintain an index of documents.

    `gte index PATHS --to KB` is short for `gte index run PATHS --to KB`; `gte search QUERY --in KB`
    searches it.

    \b
    Examples:
      gte index notes/ handbook.pdf --to kb/
      gte index notes/ --to kb/ --dry-run
      gte index status kb/
      gte index switch kb/ --model thenlper/gte-small --queries questions.txt
      gte index calibrate kb/ --labelled questions.jsonl
    """


for _command in (
    run.command,
    status.status_command,
    status.duplicates_command,
    status.export_command,
    status.import_command,
    switch.switch_command,
    switch.rollback_command,
    calibrate.command,
):
    command.add_command(_command)
