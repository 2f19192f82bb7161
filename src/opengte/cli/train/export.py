"""`gte train export`: a checkpoint of a run as a model."""

from pathlib import Path

import click

from opengte.cli.train.resume import repeat


@click.command("export", no_args_is_help=True)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--step", required=True, type=click.IntRange(1), help="Step of the checkpoint in FOLDER/run."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Output folder for the model.  [default: FOLDER/model-step-N]",
)
def command(folder: Path, step: int, output: Path | None) -> None:
    """Write a checkpoint of a run as a model.

    FOLDER is the --output of a `gte train` command, whose input files must still be there. Nothing
    is trained, and the run stays as it is.

    \b
    Examples:
      gte train export tuned/ --step 400
      gte train export tuned/ --step 400 --output tuned-400/
    """
    from opengte.errors import InputError
    from opengte.train.stages.runner import StepExport

    output = output or folder / f"model-step-{step}"
    if output.exists() and any(output.iterdir()):
        raise InputError(f"`{output}` is not empty; give a new folder for the model")
    repeat(folder, StepExport(step, output))
