"""`gte pull`: fetch a model, to run it later without a network."""

import click

from opengte.cli.common import output
from opengte.cli.common.options import hub_options, json_option


@click.command("pull")
@click.argument("model", required=False, envvar="GTE_MODEL")
@json_option
@hub_options
def command(model: str | None, as_json: bool, revision: str | None, offline: bool | None) -> None:
    """Download a model and print its folder.

    A model that is already on this machine is not downloaded again. MODEL defaults to the default
    model.

    \b
    Examples:
      gte pull
      gte pull Alibaba-NLP/gte-multilingual-base --revision main
    """
    from opengte import hub

    location = hub.fetch_model(model or hub.DEFAULT_MODEL, revision=revision, offline=offline)
    if as_json:
        output.print_json(
            {
                "model": location.name,
                "folder": str(location.folder),
                "source": location.source,
                "revision": location.revision,
            }
        )
    else:
        click.echo(f"{location.name}: {location.source}", err=True)
        click.echo(str(location.folder))
