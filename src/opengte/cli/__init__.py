"""The command `gte`: one small module per command, imported when that command is used.

Nothing here, nor at the top of a command's module, imports numpy, torch or huggingface_hub: a help
page appears at once. Data goes to stdout; logs, progress and warnings to stderr. Exit status: 0
done, 1 failed, 2 wrong usage, 130 interrupted, 141 the reader of stdout went away.
"""

from typing import Any

import click

from opengte import __version__
from opengte.cli.common.errors import report_errors
from opengte.cli.common.groups import LazyGroup

# in the order of the help page
COMMANDS = {
    "embed": ("embed:command", "Embed texts: turn them into vectors."),
    "similarity": (
        "similarity:command",
        "Compare the first text with the others by cosine similarity.",
    ),
    "search": (
        "search:command",
        "Find the documents that answer a query, in an index or in files.",
    ),
    "index": ("index:command", "Build, inspect and maintain an index of documents."),
    "bulk": ("bulk:command", "Embed many files on one or many machines, and index them."),
    "review": (
        "review:command",
        "Find what would make the answers of an index better, and its cost.",
    ),
    "cluster": ("cluster:command", "Cluster texts, or the documents of an index, by topic."),
    "dedupe": ("dedupe:command", "Find duplicate texts and keep the first of each group."),
    "rerank": ("rerank:command", "Rank documents by how well they answer a query."),
    "info": ("info:command", "Print a model's card."),
    "models": ("models:command", "List the known models, or the models on this machine."),
    "pull": ("pull:command", "Download a model and print its folder."),
    "cache": ("cache:command", "List, prune and verify prepared weights."),
    "eval": ("evaluate:command", "Evaluate models on MTEB and on your own data."),
    "bench": ("bench:command", "Measure the speed of models on this machine, and what it costs."),
    "serve": ("serve:command", "Serve models over HTTP to every embedding client."),
    "ui": ("serve.ui:command", "Open the search page of an index, on this machine only."),
    "mcp": ("mcp:command", "Serve an index to agents over the Model Context Protocol (MCP)."),
    "keys": ("serve.keys:command", "Create, list, rotate and revoke the API keys of a server."),
    "usage": ("serve.usage:command", "Print the usage of each key: requests, texts and tokens."),
    "users": ("serve.accounts:users", "Invite, list, disable and promote the users of a console."),
    "teams": (
        "serve.accounts:teams",
        "Create and list the teams of a console, and their members.",
    ),
    "credit": (
        "serve.credit:command",
        "Grant credit to teams of a console, set budgets, and print the ledger.",
    ),
    "audit": (
        "serve.accounts:audit",
        "Print the last changes of a console's accounts, the newest first.",
    ),
    "data": ("data:command", "Prepare and inspect training data, and mine hard negatives."),
    "train": (
        "train:command",
        "Train encoders and rerankers: pre-train, fine-tune, distil, merge.",
    ),
}


class Commands(LazyGroup):
    """The group `gte`: what a command raises becomes a message and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        with report_errors():
            return super().invoke(ctx)


@click.group(cls=Commands, table=COMMANDS)
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
