"""`gte models`: which models there are."""

from dataclasses import asdict
from typing import Any

import click

from opengte.cli.common import output
from opengte.cli.common.options import json_option


@click.command("models")
@click.option("--cached", is_flag=True, help="List only models on this machine.")
@json_option
def command(cached: bool, as_json: bool) -> None:
    """List the known models, or the models on this machine.

    Other checkpoints with a known architecture load as well, from the Hub or from a folder.

    \b
    Examples:
      gte models
      gte models --cached --json
    """
    rows = _cached() if cached else _known()
    if as_json:
        for row in rows:
            output.print_json(row)
    elif rows:
        header = [name.replace("_", " ") for name in rows[0]]
        output.print_table(header, [[_shown(value) for value in row.values()] for row in rows])
    else:
        click.echo("no models on this machine; download one with `gte pull MODEL`", err=True)


def _known() -> list[dict[str, Any]]:
    from opengte.hub import ALIASES
    from opengte.published_models import PUBLISHED_MODELS, find_published_model

    aliases = {known.id: name for name in ALIASES if (known := find_published_model(name))}
    columns = ("kind", "parameters", "dimension", "max_length", "dimensions", "licence", "good_for")
    rows = []
    for known in PUBLISHED_MODELS:
        values = asdict(known)
        row = {"model": known.id, "alias": aliases.get(known.id)}
        rows.append(row | {name: values[name] for name in columns})
    return rows


def _cached() -> list[dict[str, Any]]:
    from opengte.hub import cached_models

    return [
        {"model": one.name, "size": one.size, "source": one.source, "folder": str(one.folder)}
        for one in cached_models()
    ]


def _shown(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
