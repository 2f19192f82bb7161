"""`gte ui`: the search page of a knowledge base, on this machine alone."""

from typing import Any

import click

from opengte.cli.common.options import combine_options

PORT = 8081

_run_options = combine_options(
    click.option(
        "--engine",
        type=click.Choice(["auto", "native", "torch"]),
        default="auto",
        show_default=True,
        help="Inference engine.",
    ),
    click.option("--threads", type=click.IntRange(1), metavar="N", help="Number of CPU threads."),
    click.option("--device", metavar="NAME", help="Device: cpu, cuda, cuda:1, ..."),
    click.option("--offline", is_flag=True, help="Use only local files; never contact the Hub."),
)


@click.command("ui", no_args_is_help=True)
@click.argument("kb", nargs=-1, required=True, metavar="KB...")
@click.option(
    "-p",
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    metavar="N",
    help="Port to listen on; 0 picks a free one.",
)
@click.option("--open", "opened", is_flag=True, help="Open the page in the browser.")
@click.option(
    "--where",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Show only documents that match, as in `gte search --where`; repeatable.",
)
@click.option(
    "--reranker",
    metavar="MODEL",
    help="Reranker for the best passages, used by queries that request it.",
)
@_run_options
def command(
    kb: tuple[str, ...],
    port: int,
    opened: bool,
    where: tuple[str, ...],
    reranker: str | None,
    **running: Any,
) -> None:
    """Open the search page of an index, on this machine only.

    Offers search as you type, filters, explanations of each result, similar documents, and a map.
    Several indexes can be given; NAME=KB shows one under another name. Ctrl-C stops it. To let
    others search, use `gte serve --kb KB` with `gte keys`.

    \b
    Examples:
      gte ui kb/
      gte ui kb/ --open --where lang=en
      gte ui notes=kb-notes/ mail=kb-mail/ --port 0
    """
    from opengte.apps import kb_server

    kb_server.require_packages()
    from opengte.search.web.app import SearchSite, build_app
    from opengte.serve.config.settings import ServerSettings
    from opengte.serve.runtime.standalone import serve_app

    settings = ServerSettings(port=port, kb=kb, where=where, reranker=reranker, **running)
    desks = kb_server.open_services(kb, settings)
    site = kb_server.loopback_site(lambda guard: SearchSite(desks, guard))
    for one in desks:
        one.warm()

    def ready(address: str) -> None:
        click.echo(f"{address}  (Ctrl-C stops it)", err=True)
        if opened:
            click.launch(address)

    try:
        status = serve_app(build_app(site), settings, ready)
    finally:
        site.close()
    raise click.exceptions.Exit(status)
