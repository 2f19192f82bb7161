"""`gte info`: what a model is."""

from dataclasses import asdict
from typing import Any

import click

from opengte.cli.common import output
from opengte.cli.common.options import hub_options, json_option


@click.command("info")
@click.argument("model", required=False, envvar="GTE_MODEL")
@json_option
@hub_options
def command(model: str | None, as_json: bool, revision: str | None, offline: bool | None) -> None:
    """Print a model's card.

    Shows the architecture, sizes, prompts, licence and fingerprint. Reads the model's files without
    loading its weights, and downloads them first if necessary. MODEL defaults to the default model.

    \b
    Examples:
      gte info
      gte info Alibaba-NLP/gte-multilingual-base --json
    """
    from opengte import checkpoint, hub
    from opengte.arch.plan import UNLIMITED

    card = asdict(
        checkpoint.read_checkpoint(
            model or hub.DEFAULT_MODEL, revision=revision, offline=offline
        ).card
    )
    values = {name: value for name, value in card.items() if name not in _OF_AN_ENGINE}
    if as_json:
        output.print_json(values)
        return
    if values["max_length"] >= UNLIMITED:
        values["max_length"] = "no limit"
    width = max(map(len, values))
    for name, value in values.items():
        click.echo(f"{name.replace('_', ' '):{width}}  {_shown(value)}")


_OF_AN_ENGINE = ("engine", "precision", "device", "threads")  # known once a model is loaded


def _shown(value: Any) -> str:
    """Write a value for people; texts with their white space visible."""
    if isinstance(value, dict):
        return ", ".join(f"{role}: {text!r}" for role, text in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else repr(value) if "\n" in value else str(value)
