"""`gte eval`: published benchmarks, and decisions on one's own data."""

import click

from opengte.cli.evaluate import compare, needle, run


class _Evaluations(click.Group):
    """A group that accepts a model in place of a subcommand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `gte eval MODEL ...` as `gte eval run MODEL ...`."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("eval", cls=_Evaluations, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Evaluate models on MTEB and on your own data.

    `gte eval MODEL` is short for `gte eval run MODEL`.

    \b
    Examples:
      gte eval minilm --tasks STSBenchmark,SciFact
      gte eval minilm --data mteb-data/ --report report.html
      gte eval compare minilm thenlper/gte-small --data my-beir-folder/
    """


for _command in (run.run_command, *compare.COMMANDS, needle.needle_command):
    command.add_command(_command)
