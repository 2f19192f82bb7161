"""Recipes: the paper's numbers, and a budget that scales them down."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from opengte.data import BatchLoader, BatchSampler, Dataset
from opengte.data.sampling.sampler import LengthBuckets
from opengte.errors import InputError
from opengte.train.optim import LearningRateSchedule
from opengte.train.settings import TrainingSettings

log = logging.getLogger("opengte.train")

LEAST_STEPS = 50  # a small budget takes smaller batches first, and fewer steps only then
LEAST_BATCH = 16
SAMPLED = 16  # batches of which the tokens are counted


class BatchLimits(TypedDict):
    """The limits that a `BatchLoader` applies: tokens of texts, and negatives of a row."""

    query_tokens: int | None
    document_tokens: int | None
    negatives: int | None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of a stage; each stage has its own defaults.

    The budget is `steps`, else `tokens`, else `epochs`. `batch` is used as given; by default it is
    the paper's effective batch size (`largest`), or less where the data or the budget are small.
    query_tokens and document_tokens truncate texts; None: as they were prepared. Raises InputError
    for an impossible budget.

    >>> Recipe(tokens=20_000_000).limits
    {'query_tokens': None, 'document_tokens': None, 'negatives': None}
    """

    largest: int = 128
    batch: int | None = None
    steps: int | None = None
    tokens: int | None = None
    epochs: float = 1.0
    learning_rate: float = 2e-5
    warmup: float = 0.05
    schedule: LearningRateSchedule = "linear"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    clip: float | None = 1.0
    dropout: float = 0.0
    ema: float | None = None
    spike: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    alpha: float = 0.5
    query_tokens: int | None = None
    document_tokens: int | None = None
    negatives: int | None = None  # of a row at most; None: all that it has

    def __post_init__(self) -> None:
        """Check the budget; the other numbers are checked with the settings of the run."""
        for name in ("batch", "steps", "tokens", "largest"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, expected at least 1, or None")
        if not self.epochs > 0:
            raise InputError(f"epochs is {self.epochs}, expected above 0")

    def settings(self, steps: int, options: Mapping[str, Any]) -> TrainingSettings:
        """Return the settings of the loop; options are those that do not shape the result."""
        shared = {field.name for field in fields(TrainingSettings)} & {
            f.name for f in fields(Recipe)
        }
        mine = {name: getattr(self, name) for name in shared - {"steps"}}
        return TrainingSettings(steps=steps, **(mine | dict(options)))

    @property
    def limits(self) -> BatchLimits:
        """Return how texts and negatives are limited when batches are made."""
        return {
            "query_tokens": self.query_tokens,
            "document_tokens": self.document_tokens,
            "negatives": self.negatives,
        }


@dataclass(frozen=True, eq=False)
class BatchSchedule:
    """The global batches of a stage: their sampler, their number, and their rows."""

    order: BatchSampler
    steps: int
    batch: int


def schedule_batches(
    dataset: Dataset, recipe: Recipe, buckets: LengthBuckets | None = None
) -> BatchSchedule:
    """Return the order and number of a recipe's batches for the data that there are.

    buckets are (most tokens, batch); with a smaller batch than `largest` they shrink in proportion,
    and a batch that was given is that of all lengths. A source that is smaller than a batch is left
    out, with a note, unless the batch was given.
    """
    wanted = recipe.batch or _batch(dataset, recipe)

    def ordered(batch: int) -> BatchSampler:
        small: Any = "error" if recipe.batch is not None else "drop"
        common: dict[str, Any] = {"seed": recipe.seed, "alpha": recipe.alpha, "small": small}
        if buckets is None or recipe.batch is not None:
            return BatchSampler.of(dataset, batch=batch, **common)
        sizes = [(most, max(2, size * batch // buckets[0][1])) for most, size in buckets]
        return BatchSampler.of(dataset, buckets=sizes, **common)

    order = ordered(wanted)
    for name, rows in order.dropped.items():
        log.info("%d rows of `%s` fill no batch and are left out", rows, name)
    steps = recipe.steps or _steps(dataset, recipe, order)
    log.info("%d steps of %d rows, about %.1f epochs", steps, wanted, steps / order.steps_per_epoch)
    return BatchSchedule(order, steps, wanted)


def _batch(dataset: Dataset, recipe: Recipe) -> int:
    """Return the paper's batch, or a smaller power of two that the data and the budget allow."""
    rows = max((s.rows for s in dataset.sources if s.weight > 0), default=0)
    if recipe.steps is not None:
        most = float(recipe.largest)
    elif recipe.tokens is not None:
        most = recipe.tokens / _tokens_of_row(dataset, recipe) / LEAST_STEPS
    else:
        most = recipe.epochs * dataset.rows / LEAST_STEPS
    rows_wanted = min(recipe.largest, max(LEAST_BATCH, most), rows)
    return max(2, 1 << int(math.log2(max(rows_wanted, 1))))


def _steps(dataset: Dataset, recipe: Recipe, order: BatchSampler) -> int:
    if recipe.tokens is None:
        return max(1, round(recipe.epochs * order.steps_per_epoch))
    batches = BatchLoader(dataset, order, ahead=0, **recipe.limits)
    tokens = sum(batches.at(step).tokens for step in range(SAMPLED)) / SAMPLED
    return max(1, round(recipe.tokens / tokens))


def _tokens_of_row(dataset: Dataset, recipe: Recipe) -> float:
    order = BatchSampler.of(dataset, batch=2, alpha=recipe.alpha, small="drop")
    batches = BatchLoader(dataset, order, ahead=0, **recipe.limits)
    sampled = [batches.at(step) for step in range(SAMPLED)]
    return sum(batch.tokens for batch in sampled) / sum(batch.total for batch in sampled)
