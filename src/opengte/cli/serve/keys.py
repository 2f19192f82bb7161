"""`gte keys`: who may use a server."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import output
from opengte.cli.common.options import json_option

if TYPE_CHECKING:
    from opengte.serve.auth.keys import ApiKey, KeyFile

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

state_option = click.option(
    "--state-dir",
    envvar="OPENGTE_STATE_DIR",
    show_envvar=True,
    metavar="FOLDER",
    help="Folder for the server's keys and usage records.  [default: in the user's data folder]",
)


@click.group("keys")
def command() -> None:
    """Create, list, rotate and revoke the API keys of a server.

    Once a key exists, requests need one. Running servers that use the same folder see a change
    within a second. Keys are stored as hashes and shown once, when they are created.

    \b
    Examples:
      gte keys create search-team --tokens-per-day 5000000
      gte keys list
    """


def _limit(name: str, what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(name, type=click.IntRange(1), metavar="N", help=what)


@command.command("create")
@click.argument("name")
@click.option(
    "--models",
    metavar="LIST",
    help="Comma-separated models and knowledge bases that the key may use.  [default: all]",
)
@click.option(
    "--priority",
    type=click.Choice(["interactive", "bulk"]),
    default="interactive",
    show_default=True,
    help="Priority of requests that do not set one.",
)
@_limit("--requests-per-minute", "Maximum requests per minute.")
@_limit("--tokens-per-minute", "Maximum tokens per minute.")
@_limit("--tokens-per-day", "Maximum tokens per calendar day in UTC.")
@_limit("--tokens-per-month", "Maximum tokens per calendar month in UTC.")
@click.option(
    "--expires", metavar="WHEN", help="Expiry: a date (2027-01-31) or a time from now (90d, 12h)."
)
@click.option(
    "--where",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Restrict the key to documents of knowledge bases that match, as in `gte search"
    " --where`; repeatable, and all conditions must match.  [default: all "
    "documents]",
)
@click.option(
    "--team", metavar="TEAM", help="Id of the team of a console whose credit pays for the key."
)
@click.option("--admin", is_flag=True, help="Allow the key to reload the server's models.")
@json_option
@state_option
def create_command(
    name: str,
    models: str | None,
    priority: str,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    tokens_per_day: int | None,
    tokens_per_month: int | None,
    expires: str | None,
    where: tuple[str, ...],
    team: str | None,
    admin: bool,
    as_json: bool,
    state_dir: str | None,
) -> None:
    """Create a key and print it; it cannot be shown again.

    NAME is a label: the owner or the purpose of the key.

    \b
    Examples:
      gte keys create search-team
      gte keys create indexer --priority bulk --models minilm --tokens-per-month 1000000000
      gte keys create acme --where tenant=acme
    """
    from opengte.search.filters import parse_conditions
    from opengte.serve.auth.keys import RateLimits

    parse_conditions(where)  # what is wrong with a condition is better said now
    key, secret = key_file(state_dir).create(
        name,
        models=tuple(part for part in models.replace(",", " ").split()) if models else None,
        priority=priority,  # type: ignore[arg-type]
        limits=RateLimits(requests_per_minute, tokens_per_minute, tokens_per_day, tokens_per_month),
        expires=None if expires is None else _when(expires),
        admin=admin,
        where=where,
        team=team,
    )
    _print_secret(key, secret, as_json)


@command.command("list")
@json_option
@state_option
def list_command(as_json: bool, state_dir: str | None) -> None:
    """List the keys, their limits, and whether they are valid.

    \b
    Examples:
      gte keys list
      gte keys list --json
    """
    rows = [_row(key) for key in key_file(state_dir).list()]
    if as_json:
        for row in rows:
            output.print_json(row)
        return
    if not rows:
        click.echo("no keys; create one with `gte keys create NAME`", err=True)
        return
    output.print_table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows])


@command.command("revoke")
@click.argument("key")
@json_option
@state_option
def revoke_command(key: str, as_json: bool, state_dir: str | None) -> None:
    """Revoke a key, by its id or name. Its usage records remain.

    \b
    Examples:
      gte keys revoke k3j9x0ab
      gte keys revoke search-team
    """
    found = key_file(state_dir).revoke(key)
    if as_json:
        output.print_json(_row(found))
    else:
        click.echo(f"revoked {found.id} ({found.name})", err=True)


@command.command("rotate")
@click.argument("key")
@click.option(
    "--grace",
    default="0s",
    show_default=True,
    metavar="TIME",
    help="Time for which the old secret remains valid: 30m, 24h, 7d.",
)
@json_option
@state_option
def rotate_command(key: str, grace: str, as_json: bool, state_dir: str | None) -> None:
    """Give a key a new secret and print it; its id and limits stay.

    \b
    Examples:
      gte keys rotate search-team
      gte keys rotate k3j9x0ab --grace 24h
    """
    found, secret = key_file(state_dir).rotate(key, _seconds(grace))
    _print_secret(found, secret, as_json)


def key_file(state_dir: str | None) -> "KeyFile":
    """Return the keys of a state folder."""
    from opengte.serve.auth.keys import KeyFile
    from opengte.serve.config.paths import state_folder

    return KeyFile(Path(state_folder(state_dir)))


def _print_secret(key: "ApiKey", secret: str, as_json: bool) -> None:
    if as_json:
        output.print_json({**_row(key), "secret": secret})
        return
    click.echo(secret)
    click.echo(f"key {key.id} ({key.name}); it cannot be shown again", err=True)


def _row(key: "ApiKey") -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(time.time()),
        "created": _date(key.created),
        "expires": _date(key.expires),
        "models": None if key.models is None else list(key.models),
        "priority": key.priority,
        **vars(key.limits),
        "where": list(key.where) or None,
        "admin": key.admin,
        "team": key.team,
    }


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else None
    return ", ".join(value) if isinstance(value, list) else value


def _date(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _when(text: str) -> float:
    """Parse a date, at whose start in UTC the key expires, or a time from now."""
    from datetime import UTC, datetime

    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return time.time() + _seconds(text)
    when = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    if when <= time.time():
        raise click.UsageError(f"--expires: {text} is in the past.")
    return when


def _seconds(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise click.UsageError(f"{text!r} is not a duration; expected one like 30m, 24h or 90d.")
    return float(int(number) * _UNITS[unit])
