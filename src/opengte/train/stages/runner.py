"""Running of a stage: evaluate, train, evaluate, export the model."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from opengte import checkpoint_files
from opengte.arch.plan import Plan
from opengte.checkpoint import Checkpoint
from opengte.data import BatchLoader, Dataset
from opengte.reference.model import ReferenceModel
from opengte.tokenization.prompts import Prompts
from opengte.train.distributed import World
from opengte.train.loop import train
from opengte.train.models import lora
from opengte.train.models.trainable import TrainableModel
from opengte.train.objectives import Objective
from opengte.train.saving.export import ExportPackage, export_model
from opengte.train.saving.model_card import TrainedModelCard, TrainingDataSource
from opengte.train.settings import FREE_ON_RESUME
from opengte.train.stages.base_models import write_pooling
from opengte.train.stages.dev_evaluation import dev_evaluation
from opengte.train.stages.recipe import BatchSchedule, Recipe

log = logging.getLogger("opengte.train")

RUN, MODEL = "run", "model"


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """Where a stage writes, what evaluates it, and how it is computed.

    Nothing here shapes the model, except that device and number of processes affect last digits.
    options are settings of the loop that may change on resume (`FREE_ON_RESUME`); others raise
    TypeError. origins maps a source to its licence and origin, for the model card.

    >>> from opengte.train.stages.runner import StageJob
    >>> StageJob(output=Path("tuned"), options={"log_every": 50}).resume
    False
    """

    output: Path
    dev: Dataset | None = None
    resume: bool = False
    world: World = field(default_factory=World)
    options: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    origins: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # licence and origin

    def __post_init__(self) -> None:
        """Check the names of the options."""
        unknown = set(self.options) - set(FREE_ON_RESUME)
        if unknown:
            raise TypeError(
                f"{sorted(unknown)} are no options of a job; known are {FREE_ON_RESUME}"
            )


@dataclass(frozen=True)
class StageResult:
    """What a stage made: the folder of the model (None: interrupted), and its metrics."""

    model: Path | None
    steps: int
    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """How the trained weights are exported: what the files say that the checkpoint did not."""

    config: Mapping[str, Any]
    plan: Plan
    max_length: int
    prompts: Prompts
    tokenizer: Path
    notes: str


def export_spec(start: Checkpoint, notes: str, **changes: Any) -> ExportSpec:
    """Return the spec of a model that differs from its start only in `changes`."""
    fields: dict[str, Any] = {
        "config": checkpoint_files.read_json_config(start.folder / "config.json"),
        "plan": start.plan,
        "max_length": start.max_length,
        "prompts": start.prompts,
        "tokenizer": start.folder,
        "notes": notes,
    }
    return ExportSpec(**(fields | changes))


def run_stage(
    start: Checkpoint,
    model: ReferenceModel,
    data: Dataset,
    plan: BatchSchedule,
    objective: Objective,
    recipe: Recipe,
    job: StageJob,
    made: ExportSpec,
    *,
    adapters: lora.Adapters | None = None,
    part: str = "",
    last: bool = True,
) -> StageResult:
    """Train a model on a schedule of batches, and export it.

    part names one of several consecutive runs; all but the last write `model-PART`.
    """
    made = replace(made, prompts=trained_prompts(made.prompts, data))
    trainee = TrainableModel(model, objective.outputs, recipe.precision)
    if adapters is not None:
        lora.add_adapters(trainee.model, adapters, recipe.seed)
    trainee.to(job.world.device)
    evaluate = None if job.dev is None else dev_evaluation(job.dev, objective, recipe.limits)
    before = {} if evaluate is None else dict(evaluate(0, trainee.eval()))
    _say("before", before)

    def batches(first: int, rank: int, world: int) -> BatchLoader:
        order = plan.order
        return BatchLoader(data, order, start=first, rank=rank, world=world, **recipe.limits)

    result = train(
        trainee,
        batches,
        objective,
        recipe.settings(plan.steps, job.options),
        job.output / RUN / part,
        world=job.world,
        identity=_identity(start, data, plan, recipe, adapters),
        evaluate=evaluate,
        resume=job.resume,
    )
    if result.interrupted:
        log.warning("stopped after step %d; resume it to go on", result.step)
        return StageResult(None, result.step, before, {})
    _say("after", result.metrics)
    if adapters is not None:
        lora.merge_adapters(trainee.model)
    folder = job.output / (MODEL if last else f"{MODEL}-{part}")
    card = _card(start, data, plan, recipe, job, made, before, result.metrics)
    _write(trainee.model, made, card, folder, job.world)
    return StageResult(folder, result.step, before, result.metrics)


def trained_prompts(prompts: Prompts, data: Dataset) -> Prompts:
    """Return a model's prompts with the instruction that all of its queries were trained with."""
    if prompts.template is None:
        return prompts
    sources = [s for s in data.sources if s.weight > 0 and s.kind != "texts"]
    default = prompts.default_instruction
    tasks = {source.instruction or default for source in sources} - {None}
    if len(tasks) == 1:
        return replace(prompts, default_instruction=tasks.pop())
    if tasks:
        log.warning(
            "the sources have %d instructions: give each query its own, or it gets %r",
            len(tasks),
            default,
        )
    return prompts


def _identity(
    start: Checkpoint, data: Dataset, plan: BatchSchedule, recipe: Recipe, adapters: object
) -> dict[str, str]:
    return {
        "model": start.fingerprint(),
        "data": data.fingerprint,
        "order": plan.order.fingerprint,
        "limits": repr(recipe.limits),
        "adapters": repr(adapters),
    }


def _say(when: str, metrics: Mapping[str, float]) -> None:
    if metrics:
        found = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        log.info("%s training: %s", when, found)


def _card(
    start: Checkpoint,
    data: Dataset,
    plan: BatchSchedule,
    recipe: Recipe,
    job: StageJob,
    made: ExportSpec,
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> TrainedModelCard:
    used = [source for source in data.sources if source.weight > 0]
    trained = tuple(
        TrainingDataSource(s.name, s.kind, s.rows, *job.origins.get(s.name, ("not stated", "")))
        for s in used
    )
    metrics = {f"{name}, before": value for name, value in before.items()}
    metrics |= {f"{name}, after": value for name, value in after.items()}
    return TrainedModelCard(
        name=job.output.name,
        base_model=start.name,
        licence=job.licence or start.licence,
        data=trained,
        settings={"steps": str(plan.steps), "batch": str(plan.batch)} | _told(recipe),
        metrics=metrics,
        notes=made.notes,
    )


def _told(recipe: Recipe) -> dict[str, str]:
    left_out = ("steps", "batch", "largest", "tokens", "epochs")
    values = vars(recipe).items()
    return {name: str(v) for name, v in values if name not in left_out and v is not None}


def _write(
    model: ReferenceModel, made: ExportSpec, card: TrainedModelCard, folder: Path, world: World
) -> None:
    model.plan = made.plan  # the weights are the same, how positions are read may not be
    package = ExportPackage(
        config=made.config,
        tokenizer=made.tokenizer,
        max_length=made.max_length,
        prompts=made.prompts,
        card=card,
    )
    with torch.no_grad():
        export_model(model, folder, package, world)
    if world.is_first and made.plan.masked is not None and made.plan.pooling is not None:
        write_pooling(folder, made.plan.pooling)  # the next stage reads it as an encoder
    world.wait()


def replaced(start: Checkpoint, **changes: Any) -> Plan:
    """Return a checkpoint's plan with other heads, pooling or positions."""
    return replace(start.plan, **changes)
