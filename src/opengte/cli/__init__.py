"""The command `gte`: one small module per command, imported when that command is used.

Nothing here, nor at the top of a command's module, imports numpy, torch or huggingface_hub: a help
page appears at once. Data goes to stdout; logs, progress and warnings to stderr. Exit status: 0
done, 1 failed, 2 wrong usage, 130 interrupted, 141 the reader of stdout went away.
"""

from importlib import import_module
from typing import Any

import click

from opengte import __version__
from opengte.cli.common.errors import report_errors

# name of a command -> module in this package, whose `command` it is; in the order of the help page
COMMANDS = {
    "embed": "embed",
    "similarity": "similarity",
    "search": "search",
    "index": "index",
    "cluster": "cluster",
    "dedupe": "dedupe",
    "rerank": "rerank",
    "info": "info",
    "models": "models",
    "pull": "pull",
    "cache": "cache",
    "eval": "evaluate",
    "serve": "serve",
    "ui": "serve.ui",
    "mcp": "mcp",
    "keys": "serve.keys",
    "usage": "serve.usage",
    "data": "data",
    "train": "train",
}


class Commands(click.Group):
    """A group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command, or return None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"opengte.cli.{COMMANDS[cmd_name]}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command; what it raises becomes a message and an exit status."""
        with report_errors():
            return super().invoke(ctx)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gte")
def main() -> None:
    """Embed, compare, search and rerank texts with the General Text Embeddings models.

    Data goes to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 wrong usage.

    \b
    Examples:
      gte embed "What is a text embedding?"
      gte search "how do I sort a dictionary?" docs/
      gte COMMAND --help
    """
