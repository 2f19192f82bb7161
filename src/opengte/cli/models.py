"""`gte models`: which models there are."""

from dataclasses import asdict
from typing import Any

import click

from opengte.cli.common import output
from opengte.cli.common.options import json_option

UNLIMITED = 1 << 30  # arch.plan.UNLIMITED; nothing heavy is imported for the help


@click.command("models")
@click.option("--cached", is_flag=True, help="List only models on this machine.")
@json_option
def command(cached: bool, as_json: bool) -> None:
    """List the known models, or the models on this machine.

    Known models are grouped: first those that a package index alone provides, then encoders by
    size and language, then rerankers. Other checkpoints with a known architecture load as well,
    from the Hub or from a folder.

    \b
    Examples:
      gte models
      gte models --cached --json
    """
    rows = _cached() if cached else _known()
    if as_json:
        for row in rows:
            output.print_json(row)
    elif rows and not cached:
        _print_groups(rows)
    elif rows:
        header = [name.replace("_", " ") for name in rows[0]]
        output.print_table(header, [[_shown(value) for value in row.values()] for row in rows])
    else:
        click.echo("no models on this machine; download one with `gte pull MODEL`", err=True)


def _print_groups(rows: list[dict[str, Any]]) -> None:
    """Print known models under the heading of their group, smaller and freer ones first."""
    columns = ("model", "parameters", "dimension", "max_length", "licence", "good_for")
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (_rank(row), row["parameters"])):
        groups.setdefault(_group(row), []).append(row)
    for heading, members in groups.items():
        click.echo(f"\n{heading}")
        shown = [[_cell(row, name) for name in columns] for row in members]
        output.print_table([name.replace("_", " ") for name in columns], shown)


SIZES = ((100, "up to 100M weights"), (1000, "100M to 1B weights"), (10**6, "over 1B weights"))


def _rank(row: dict[str, Any]) -> tuple[int, int, bool]:
    size = next(i for i, (most, _) in enumerate(SIZES) if row["parameters"] <= most)
    if row["kind"] == "reranker":
        return (2, size, False)
    return (0, 0, False) if row["alias"] else (1, size, _is_multilingual(row))


def _group(row: dict[str, Any]) -> str:
    place, size, multilingual = _rank(row)
    if place == 0:
        return "From a package index, without the Hugging Face Hub"
    if place == 2:
        return "Rerankers, from the Hub"
    language = "several languages" if multilingual else "English or Chinese"
    return f"From the Hub, {SIZES[size][1]}, {language}"


def _is_multilingual(row: dict[str, Any]) -> bool:
    return "languages" in row["good_for"] or "multilingual" in row["good_for"]


def _cell(row: dict[str, Any], name: str) -> Any:
    if name == "model" and row["alias"]:
        return f"{row['alias']} ({row['model']})"
    if name == "parameters":
        return f"{row[name]}M"
    if name == "max_length" and row[name] >= UNLIMITED:
        return "no limit"
    return _shown(row[name])


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
