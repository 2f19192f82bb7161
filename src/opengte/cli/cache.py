"""`gte cache`: the weights that were prepared for the compiled engine."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import output
from opengte.cli.common.options import json_option

if TYPE_CHECKING:
    from opengte.engine.prepared_cache import PreparedFile


@click.group("cache")
def command() -> None:
    """List, prune and verify prepared weights.

    The compiled engine writes each model's weights once in its own layout and maps that file from
    then on. Files beyond $OPENGTE_CACHE_LIMIT (10GB by default) are removed when another is
    written, the one that was not used for longest first. A removed file is made again when its
    model is loaded.

    \b
    Examples:
      gte cache list
      gte cache prune --to 2GB
      gte cache verify --json
    """


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List prepared weights, the ones used last first.

    \b
    Examples:
      gte cache list
      gte cache list --json
    """
    from opengte.engine.prepared_cache import prepared_files, prepared_folder

    files = prepared_files(prepared_folder())
    _print([_row(file) for file in files], as_json)
    total = output.format_bytes(sum(file.size for file in files))
    click.echo(f"{len(files)} files, {total}, in {prepared_folder()}", err=True)


@command.command("prune")
@click.option("--to", "limit", metavar="SIZE", help="Keep at most this much; 0 removes all.")
@json_option
def prune_command(limit: str | None, as_json: bool) -> None:
    """Remove the prepared weights that were not used for longest.

    Keeps what fits into --to, by default into $OPENGTE_CACHE_LIMIT, and prints what was removed.
    Programs that use a removed file go on using it.

    \b
    Examples:
      gte cache prune
      gte cache prune --to 500MB
    """
    from opengte.engine import prepared_cache
    from opengte.hub.disk import parse_size

    try:
        room = prepared_cache.size_limit() if limit is None else parse_size(limit)
    except ValueError:
        raise click.BadParameter(
            f"{limit!r} is not a size; expected one such as `2GB`", param_hint="--to"
        ) from None
    files = prepared_cache.prepared_files(prepared_cache.prepared_folder())
    removed = prepared_cache.prune(files, room)
    _print([_row(file) for file in removed], as_json)
    freed = output.format_bytes(sum(file.size for file in removed))
    click.echo(f"removed {len(removed)} of {len(files)} files, {freed}", err=True)


@command.command("verify")
@json_option
@click.pass_context
def verify_command(ctx: click.Context, as_json: bool) -> None:
    """Read all prepared weights and remove those that are damaged.

    The exit status is 1 if there was one. Removed files are made again when they are needed.

    \b
    Examples:
      gte cache verify
      gte cache verify --json
    """
    from opengte.engine import prepared_cache

    files = prepared_cache.prepared_files(prepared_cache.prepared_folder())
    rows = [_row(file) | {"intact": prepared_cache.is_intact(file)} for file in files]
    damaged = [file for file, row in zip(files, rows, strict=True) if not row["intact"]]
    for file in damaged:
        prepared_cache.remove(file.path)
    _print(rows, as_json)
    click.echo(f"{len(damaged)} of {len(files)} files were damaged and are removed", err=True)
    ctx.exit(1 if damaged else 0)


def _row(file: "PreparedFile") -> dict[str, Any]:
    return asdict(file) | {"path": str(file.path)}


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            output.print_json(row)
        return
    shown = [
        row | {"used": time.strftime("%Y-%m-%d %H:%M", time.localtime(row["used"]))} for row in rows
    ]
    names = [name for name in (rows[0] if rows else {}) if name not in ("path", "format")]
    if rows:
        table = [
            [str(row[name]) if name == "intact" else row[name] for name in names] for row in shown
        ]
        output.print_table(names, table)
