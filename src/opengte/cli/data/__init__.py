"""`gte data`: training data, from files of texts to shards of token ids."""

import click

from opengte.cli.common.groups import LazyGroup

COMMANDS = {
    "mine": (
        "data.mine:command",
        "Mine hard negatives for pairs: near the query, but not answers.",
    ),
    "prepare": ("data.prepare:command", "Clean, filter and tokenise training data into shards."),
    "show": (
        "data.show:command",
        "Show the contents of a folder of shards: sources, rows, batches.",
    ),
}


@click.group("data", cls=LazyGroup, table=COMMANDS)
def command() -> None:
    """Prepare and inspect training data, and mine hard negatives.

    \b
    Examples:
      gte data prepare pairs.jsonl --output data/
      gte data mine pairs.jsonl --output mined.jsonl
      gte data show data/
    """
