"""`gte train resume`: the command that was stopped, again."""

import json
import os
from pathlib import Path

import click

from opengte.cli.train.kept import COMMAND
from opengte.cli.train.stages import COMMANDS


@click.command("resume", no_args_is_help=True)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def command(folder: Path) -> None:
    """Resume an interrupted run from its last checkpoint.

    FOLDER is the --output of a `gte train` command, which is repeated with the same arguments.

    \b
    Examples:
      gte train resume tuned/
      gte train resume experiments/reranker/
    """
    repeat(folder)


def repeat(folder: Path, asked: object = None) -> None:
    """Run the recorded command of an output folder again, from its last checkpoint."""
    from opengte.errors import InputError

    path = folder / COMMAND
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        name, words, place = record["command"], record["arguments"], record["folder"]
        model = record["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"`{folder}` is not an --output of `gte train`: {path.name} cannot be read ({error!r})"
        ) from None
    if Path(place) != Path.cwd():
        raise InputError(
            f"the run was started in `{place}`, and its paths are relative to it; go there first "
            f"(now `{os.getcwd()}`)"
        )
    stages = {str(stage.name): stage for stage in COMMANDS}
    if name not in stages:
        raise InputError(f"{path} names the command {name!r}; expected {', '.join(stages)}")
    words = [str(word) for word in words if word != "--resume"]
    stages[name].main(
        [*words, "--model", model, "--resume"], name, standalone_mode=False, obj=asked
    )
