"""`gte data`: training data, from files of texts to shards of token ids."""

import click

from opengte.cli.data import mine, prepare, show


@click.group("data", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Prepare and inspect training data, and mine hard negatives.

    \b
    Examples:
      gte data prepare pairs.jsonl --output data/
      gte data mine pairs.jsonl --output mined.jsonl
      gte data show data/
    """


command.add_command(prepare.command)
command.add_command(mine.command)
command.add_command(show.command)
