"""How a stage's command runs: what it is asked, where its data comes from, what it says."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import errors
from opengte.cli.data.options import ColumnOptions, specs_of
from opengte.cli.train.data import Sources, encoding_of
from opengte.cli.train.options import (
    ARGUMENTS,
    DataOptions,
    RecipeOptions,
    RunOptions,
    stage,
)

if TYPE_CHECKING:
    from opengte.checkpoint import Checkpoint
    from opengte.train.distributed import World
    from opengte.train.stages.runner import StageJob, StageResult

COMMAND, RESULT = "command.json", "result.json"


@dataclass(frozen=True)
class Asked:
    """What every stage is asked: the model, the data, where to and how."""

    model: str
    source: DataOptions
    columns: ColumnOptions
    output: Path
    resume: bool
    numbers: RecipeOptions
    run: RunOptions

    @property
    def start(self) -> Path:
        """Return where a model goes that has to be read in another way."""
        return self.output / "start"

    def sources(self, start: "Checkpoint", recipe: Any, **options: Any) -> Sources:
        """Return the data, tokenised at the recipe's lengths."""
        encoding = encoding_of(
            start,
            recipe.query_tokens,
            recipe.document_tokens,
            **options.pop("encoding", {}),
        )
        return Sources(self.source, self.columns, self.output / "data", encoding, **options)


def stage_command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator for a function of `Asked`, the world, and the stage's own options."""

    def decorate(function: Callable[..., None]) -> click.Command:
        def callback(**values: Any) -> None:
            common = {field: values.pop(field) for field in Asked.__annotations__}
            asked = Asked(**common)
            if not asked.source.data and asked.source.listed is None:
                raise click.UsageError("Give --data PATH, or --sources FILE.")
            with _world(asked) as world:
                function(asked, world, **values)

        callback.__doc__ = function.__doc__
        callback.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        return stage(name)(callback)

    return decorate


@contextmanager
def _world(asked: Asked) -> "Iterator[World]":
    """Join the other processes, say what training says, and write down what was asked."""
    from opengte.train.distributed import join_processes, leave_processes

    logger = logging.getLogger("opengte.train")
    handler = _Lines()
    level = logger.level
    logger.setLevel(logging.INFO)
    world = join_processes(asked.run.device)
    if world.is_first:
        logger.addHandler(handler)
        context = click.get_current_context()
        asked.output.mkdir(parents=True, exist_ok=True)
        record = {"command": context.info_name, "folder": os.getcwd(), "model": asked.model}
        record["arguments"] = context.meta[ARGUMENTS]
        path = asked.output / COMMAND
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    try:
        yield world
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        leave_processes()


class _Lines(logging.Handler):
    """Log records as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        click.echo(record.getMessage(), err=True)


def job(asked: Asked, world: "World", dev: Any) -> "StageJob":
    """Return where a stage writes, and how it is computed."""
    from opengte.train.stages.runner import StageJob

    return StageJob(
        output=asked.output,
        dev=dev,
        resume=asked.resume,
        world=world,
        options=asked.run.settings(),
    )


def finish(done: "StageResult", world: "World", *, loads: str = "Encoder") -> None:
    """Say what was made, and how it is used."""
    if not world.is_first:
        return
    if done.model is None:
        click.echo(f"stopped after {done.steps} steps; continue with `gte train resume`", err=True)
        raise click.exceptions.Exit(errors.INTERRUPTED)
    record = {"steps": done.steps, "before": dict(done.before), "after": dict(done.after)}
    result = done.model.with_name(RESULT)
    result.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for name, value in done.after.items():
        before = done.before.get(name)
        was = "" if before is None else f"{before:.4f} before, "
        click.echo(f"{name}: {was}{value:.4f} after", err=True)
    click.echo(str(done.model))
    if loads == "Encoder":
        how = f"gte search QUERY FOLDER -m {done.model}; measure it: gte eval {done.model} --data F"
    else:
        how = f"gte rerank -m {done.model} QUERY DOCUMENT..."
    click.echo(f'use it: opengte.{loads}.load("{done.model}"), {how}', err=True)


def created(
    asked: Asked,
    world: "World",
    architecture: Any,
    size: str,
    vocabulary: int,
    positions: int,
    folder: Path,
) -> "Checkpoint":
    """Return a model from nothing, made once."""
    from opengte import checkpoint as checkpoints
    from opengte.data.examples import UnusableRow
    from opengte.data.reading.sources import detect_columns, read_examples
    from opengte.train.stages.base_models import create_model

    if asked.model != architecture:
        raise click.UsageError(f"With --from-nothing, --model is `{architecture}`.")
    if world.is_first and not folder.exists():
        specs = specs_of(asked.source.data, asked.source.listed, asked.columns, {})
        texts = (
            text
            for spec in specs
            for row in read_examples(spec.paths, detect_columns(spec.paths, spec.columns))
            if not isinstance(row, UnusableRow)
            for text in (row.query, *row.documents)
        )
        create_model(
            folder,
            texts,
            architecture=architecture,
            size=size,
            vocabulary=vocabulary,
            positions=positions,
            seed=asked.numbers.seed or 0,
        )
    world.wait()
    return checkpoints.read_checkpoint(folder, kind="encoder")
