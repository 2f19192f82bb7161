"""How a stage's command runs: what it is arguments, where its data comes from, what it says."""

import importlib.util
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
from opengte.cli.data.options import ColumnOptions, parse_sources
from opengte.cli.train.data import StageData, build_encoding
from opengte.cli.train.kept import COMMAND, DATA, START, bind_output, describe, steps_done
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

RESULT = "result.json"


@dataclass(frozen=True)
class StageArguments:
    """What every stage takes: the model, the data, the output and how to run."""

    model: str
    source: DataOptions
    columns: ColumnOptions
    output: Path
    resume: bool
    numbers: RecipeOptions
    run: RunOptions

    @property
    def start(self) -> Path:
        """Return the folder of a start model that has to be converted first."""
        return self.output / START

    def sources(self, start: "Checkpoint", recipe: Any, **options: Any) -> StageData:
        """Return the data, tokenised at the recipe's lengths."""
        arguments_fit(self, start, recipe)
        encoding = build_encoding(
            start,
            recipe.query_tokens,
            recipe.document_tokens,
            **options.pop("encoding", {}),
        )
        return StageData(self.source, self.columns, self.output / DATA, encoding, **options)


def arguments_fit(arguments: StageArguments, start: "Checkpoint", recipe: Any) -> None:
    """Raise InputError for what training would refuse after its data was prepared."""
    from opengte.errors import InputError, MissingExtraError

    recipe.settings(1, arguments.run.settings())
    for package, wanted, what in (
        ("peft", getattr(recipe, "adapters", None), "LoRA"),
        ("tensorboard", arguments.run.tensorboard, "--tensorboard"),
    ):
        if wanted and importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "train", what)
    for size in getattr(recipe, "matryoshka", ()):
        if not 0 < size <= start.plan.dimension:
            raise InputError(
                f"--matryoshka has {size}; the model's vectors have {start.plan.dimension} "
                "numbers: expected sizes up to that"
            )


def stage_command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator that makes a command of a function.

    The function takes `StageArguments`, the world, and the options of its stage.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        def callback(**values: Any) -> None:
            common = {field: values.pop(field) for field in StageArguments.__annotations__}
            arguments = StageArguments(**common)
            if not arguments.source.data and arguments.source.listed is None:
                raise click.UsageError("Give --data PATH, or --sources FILE.")
            with _world(arguments) as world:
                _bind(arguments, world, name, values)
                function(arguments=arguments, world=world, **values)

        callback.__doc__ = function.__doc__
        callback.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        return stage(name)(callback)

    return decorate


@contextmanager
def _world(arguments: StageArguments) -> "Iterator[World]":
    """Join the other processes, log training to stderr, and record the arguments."""
    from opengte.train.distributed import join_processes, leave_processes

    logger = logging.getLogger("opengte.train")
    handler = _Lines()
    level = logger.level
    logger.setLevel(logging.INFO)
    world = join_processes(arguments.run.device)
    if world.is_first:
        logger.addHandler(handler)
    try:
        yield world
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        leave_processes()


def _bind(arguments: StageArguments, world: "World", name: str, own: dict[str, Any]) -> None:
    """Refuse a folder that holds another run, before anything in it changes."""
    if world.is_first:
        source, columns, numbers = arguments.source, arguments.columns, arguments.numbers
        made = describe(name, arguments.model, source, columns, numbers, own)
        bind_output(arguments.output, made, resume=arguments.resume)
        if not steps_done(arguments.output):
            _record_command(arguments)
    world.wait()


def _record_command(arguments: StageArguments) -> None:
    """Write what `gte train resume` repeats."""
    context = click.get_current_context()
    record = {"command": context.info_name, "folder": os.getcwd(), "model": arguments.model}
    record["arguments"] = context.meta[ARGUMENTS]
    path = arguments.output / COMMAND
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


class _Lines(logging.Handler):
    """Log records as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        click.echo(record.getMessage(), err=True)


def job(arguments: StageArguments, world: "World", dev: Any) -> "StageJob":
    """Return where a stage writes, and how it is computed."""
    from opengte.train.stages.runner import StageJob, StepExport

    asked = click.get_current_context().obj
    export = asked if isinstance(asked, StepExport) else None
    return StageJob(
        output=arguments.output,
        dev=dev,
        resume=arguments.resume,
        world=world,
        options=arguments.run.settings(),
        export=export,
    )


def finish(
    arguments: StageArguments, done: "StageResult", world: "World", *, loads: str = "Encoder"
) -> None:
    """Say what was made, and how it is used."""
    if not world.is_first:
        return
    if click.get_current_context().obj is not None:
        click.echo(str(done.model))
        return
    _record_command(arguments)
    if done.model is None:
        click.echo(f"stopped after {done.steps} steps; continue with `gte train resume`", err=True)
        raise click.exceptions.Exit(errors.INTERRUPTED)
    record = {"steps": done.steps, "before": dict(done.before), "after": dict(done.after)}
    record |= {"kept": done.kept, "last": dict(done.last)}
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
    arguments: StageArguments,
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

    if arguments.model != architecture:
        raise click.UsageError(f"With --from-nothing, --model is `{architecture}`.")
    if world.is_first and not folder.exists():
        specs = parse_sources(arguments.source.data, arguments.source.listed, arguments.columns, {})
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
            seed=arguments.numbers.seed or 0,
        )
    world.wait()
    return checkpoints.read_checkpoint(folder, kind="encoder")
