"""`gte train merge`: one model of several."""

from pathlib import Path

import click


@click.command("merge", no_args_is_help=True)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where the model goes.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=click.FloatRange(0),
    metavar="NUMBER",
    help="Of each model in turn.  [default: equal]",
)
@click.option(
    "--slerp",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Go this share of the arc from the first of two models to the second instead.",
)
def command(
    models: tuple[str, ...], output: Path, weights: tuple[float, ...], slerp: float | None
) -> None:
    """Average models that were trained from the same one, or interpolate.

    \b
    Examples:
      gte train merge tuned-1/model tuned-2/model tuned-3/model --output merged/
      gte train merge minilm tuned/model --slerp 0.3 --output milder/
    """
    from opengte.errors import InputError
    from opengte.train.saving import merge

    if output.exists() and any(output.iterdir()):
        raise InputError(f"`{output}` is not empty; give a new folder for the model")
    if slerp is None:
        merge.average_models(models, output, weights)
    elif len(models) != 2 or weights:
        raise click.UsageError("--slerp takes two models, and no --weight.")
    else:
        merge.slerp(models[0], models[1], output, slerp)
    click.echo(str(output))
