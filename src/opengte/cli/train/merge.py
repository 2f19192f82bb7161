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
    help="Output folder for the model.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    type=click.FloatRange(0),
    metavar="NUMBER",
    help="Weight of each model, in order; repeatable.  [default: equal]",
)
@click.option(
    "--slerp",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Interpolate spherically between two models instead, at this fraction of the arc.",
)
def command(
    models: tuple[str, ...], output: Path, weights: tuple[float, ...], slerp: float | None
) -> None:
    """Merge models that were trained from the same model.

    Averages their weights, or interpolates between two of them.

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
        raise click.UsageError("--slerp takes exactly two models and no --weight.")
    else:
        merge.slerp(models[0], models[1], output, slerp)
    click.echo(str(output))
