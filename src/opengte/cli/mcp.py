"""`gte mcp`: an index as tools of an agent."""

from dataclasses import replace

import click

from opengte.cli.common.knowledge_base import encoder_loader
from opengte.cli.common.options import ModelOptions, encoder_options


@click.command("mcp", no_args_is_help=True)
@click.argument("kb", metavar="KB")
@click.option(
    "--where",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Expose only documents that match: = != < <= > >= ~ (contains) ^ (starts with);"
    " repeatable.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(64, 1_000_000),
    default=16_000,
    show_default=True,
    metavar="N",
    help="Maximum tokens of an answer that an agent may request; the default of a request is 2000.",
)
@click.option("--reranker", metavar="MODEL", help="Rerank the best passages with this model.")
@click.option(
    "--http",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Serve HTTP on this port of 127.0.0.1, at /mcp, instead of stdio.",
)
@encoder_options
def command(
    kb: str,
    where: tuple[str, ...],
    max_tokens: int,
    reranker: str | None,
    http: int | None,
    options: ModelOptions,
) -> None:
    """Serve an index to agents over the Model Context Protocol (MCP).

    The tool `search` finds passages; the tool `fetch` reads a document, a section or a page of it.
    An answer never exceeds the requested number of tokens, counted by the index's own tokenizer.
    The agent starts this command and talks to it over stdin and stdout.

    \b
    Examples:
      gte mcp kb/
      gte mcp kb/ --where team=sales
      gte mcp kb/ --http 8765
    """
    from opengte.integrations.mcp import serve
    from opengte.search.filters import parse_conditions
    from opengte.search.kb import KnowledgeBase
    from opengte.search.web.agent import AgentTools

    base = KnowledgeBase.open(kb, load=encoder_loader(options))
    reading = None
    if reranker is not None:
        plain = replace(options, model=reranker, precision="auto", max_length=None, revision=None)
        reading = plain.load_reranker()
    serve(AgentTools(base, only=parse_conditions(where), most=max_tokens, reranker=reading), http)
