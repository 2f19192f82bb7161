"""`gte bench`: how fast models are on this machine, and what that costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common.options import hub_options, json_option
from opengte.cli.evaluate.options import (
    checked_reports,
    print_report,
    split_names,
    split_numbers,
    write_reports,
)

if TYPE_CHECKING:
    from opengte.evaluate.speed.measure import SpeedResult
    from opengte.evaluate.speed.server import ServerResult


BUSY = 0.5  # processes that ran or waited in the last minute


@click.command("bench")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--precisions", metavar="NAMES", help="Of fp32, bf16, int8; all by default.")
@click.option("--threads", metavar="NUMBERS", help="Such as 1,4; all CPUs, and one, by default.")
@click.option(
    "--lengths", default="32,128,512", show_default=True, metavar="TOKENS", help="Of the texts."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=75.0,
    show_default=True,
    help="Time to measure, over all models; loading comes on top.",
)
@click.option("--price", metavar="AMOUNT/h", help="Price of the machine, such as 0.09/h.")
@click.option("--server", metavar="URL", help="Load a running server too, or it alone.")
@click.option("--api-key", envvar="OPENGTE_API_KEY", metavar="KEY", help="A key for the server.")
@json_option
@checked_reports
@hub_options
def command(
    models: tuple[str, ...],
    precisions: str | None,
    threads: str | None,
    lengths: str,
    seconds: float,
    price: str | None,
    server: str | None,
    api_key: str | None,
    as_json: bool,
    reports: tuple[Path, ...],
    revision: str | None,
    offline: bool | None,
) -> None:
    """Measure the speed of models on this machine, and what it costs.

    Measures tokens a second by precision, threads and length, the latency of a query, start, memory
    and fidelity, in turn, in processes of their own. Run it with nothing else running. With
    `--server` and no MODEL, only the server is measured.

    \b
    Examples:
      gte bench
      gte bench minilm mpnet --price 0.09/h --report speed.html
      gte bench --server http://127.0.0.1:8080
    """
    from opengte.evaluate.speed import machine, prices, report

    hourly = prices.parse_price(price) if price else None
    settings = split_names(precisions), split_numbers("--threads", threads)
    sizes = split_numbers("--lengths", lengths)
    names = models or (() if server else (_default(),))
    each = seconds / (len(names) + bool(server))
    rows: list[dict[str, Any]] = []
    load_before = machine.load()
    if load_before and load_before > BUSY:
        click.echo(f"warning: this machine is busy (load {load_before:.1f})", err=True)
    for name in names:
        load = {"revision": revision, "offline": offline}
        found = _measured(name, settings, sizes, each, load)
        rows += report.speed_rows(found, hourly)
    loaded = _loaded(server, api_key, each) if server else None
    whole = report.speed_report(rows, loaded, hourly, load_before)
    write_reports(reports, whole)
    print_report(whole, as_json)


def _default() -> str:
    from opengte.hub import DEFAULT_MODEL

    return DEFAULT_MODEL


def _measured(
    model: str,
    settings: tuple[list[str], list[int]],
    lengths: list[int],
    seconds: float,
    load: dict[str, Any],
) -> "list[SpeedResult]":
    from opengte.evaluate.speed import measure

    return measure.measure_model(
        model,
        measure.default_settings(*settings),
        lengths=lengths,
        seconds=seconds,
        load=load,
        progress=lambda text: click.echo(f"{model}: {text}", err=True),
    )


def _loaded(url: str, key: str | None, seconds: float) -> "ServerResult":
    from opengte.errors import MissingExtraError

    try:
        from opengte.evaluate.speed import server
    except ImportError:
        raise MissingExtraError("httpx", "bench", "loading a server") from None
    click.echo(f"{url}: idle, at its limit, and at half of it", err=True)
    return server.measure_server(url, key=key, seconds=seconds)
