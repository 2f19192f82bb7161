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
from opengte.errors import InputError
from opengte.reference.model import ReferenceModel
from opengte.tokenization.prompts import Prompts
from opengte.train.distributed import World
from opengte.train.loop import train
from opengte.train.models import lora
from opengte.train.models.trainable import TrainableModel
from opengte.train.objectives import Objective
from opengte.train.saving.checkpoints import list_checkpoints, load_weights, recorded_identity
from opengte.train.saving.export import ExportPackage, export_files, export_model
from opengte.train.saving.model_card import TrainedModelCard, TrainingDataSource
from opengte.train.settings import FREE_ON_RESUME
from opengte.train.stages.base_models import write_pooling
from opengte.train.stages.dev_evaluation import dev_evaluation
from opengte.train.stages.recipe import BatchSchedule, Recipe

log = logging.getLogger("opengte.train")

RUN, MODEL = "run", "model"


@dataclass(frozen=True)
class StepExport:
    """A checkpoint to export instead of training: its step, and a folder for the model."""

    step: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """Where a stage writes, what evaluates it, and how it is computed.

    Nothing here shapes the model, except that device and number of processes affect last digits.
    options are settings of the loop that may change on resume (`FREE_ON_RESUME`); others raise
    TypeError. origins maps a source to its licence and origin, for the model card. With export, a
    checkpoint of the run is written as a model and nothing is trained.

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
    export: StepExport | None = None

    def __post_init__(self) -> None:
        """Check the names of the options."""
        unknown = set(self.options) - set(FREE_ON_RESUME)
        if unknown:
            raise TypeError(
                f"{sorted(unknown)} are no options of a job; known are {FREE_ON_RESUME}"
            )


@dataclass(frozen=True)
class StageResult:
    """What a stage made: the folder of the model (None: interrupted), and its metrics.

    kept is the step whose weights the model has; last are the metrics of the last step.
    """

    model: Path | None
    steps: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    kept: int = 0
    last: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """How the trained weights are exported: what the files say that the checkpoint did not."""

    config: Mapping[str, Any]
    plan: Plan
    max_length: int
    prompts: Prompts
    tokenizer: Path
    notes: str
    late: Mapping[str, Any] | None = None  # the settings of PyLate, for late interaction


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
    export_files(made.plan, made.config)  # what cannot be written is refused before the work
    made = replace(made, prompts=trained_prompts(made.prompts, data))
    trainable = TrainableModel(model, objective.outputs, recipe.precision)
    if adapters is not None:
        lora.add_adapters(trainable.model, adapters, recipe.seed)
    trainable.to(job.world.device)
    if job.export is not None:
        card = _card(start, data, plan, recipe, job, made, {}, {})
        return _export_step(trainable, recipe, adapters, made, card, job, part=part, last=last)
    evaluate = None if job.dev is None else dev_evaluation(job.dev, objective, recipe.limits)
    before = {} if evaluate is None else dict(evaluate(0, trainable.eval()))
    _log_metrics("before", before)

    def batches(first: int, rank: int, world: int) -> BatchLoader:
        order = plan.order
        return BatchLoader(data, order, start=first, rank=rank, world=world, **recipe.limits)

    settings = recipe.settings(plan.steps, job.options)
    result = train(
        trainable,
        batches,
        objective,
        settings,
        job.output / RUN / part,
        world=job.world,
        identity=_identity(start, data, plan, recipe, adapters, job.output / RUN / part),
        evaluate=evaluate,
        resume=job.resume,
    )
    if result.interrupted:
        log.warning("stopped after step %d; resume it to go on", result.step)
        return StageResult(None, result.step, before, {})
    kept, after = result.step, result.metrics
    if settings.keep_best and result.best_step is not None:
        kept, after = result.best_step, result.best
    _log_metrics("after", after)
    _compare(before, after, result.metrics, kept)
    if adapters is not None:
        lora.merge_adapters(trainable.model)
    folder = job.output / (MODEL if last else f"{MODEL}-{part}")
    card = _card(start, data, plan, recipe, job, made, before, after)
    _write(trainable.model, made, card, folder, job.world)
    return StageResult(folder, result.step, before, after, kept, result.metrics)


def _compare(
    before: Mapping[str, float], after: Mapping[str, float], last: Mapping[str, float], kept: int
) -> None:
    """Say by how much the weights that are kept beat those at the start and at the end."""
    name = next(iter(after), None)
    if name is None or name not in before:
        return
    log.info(
        "kept step %d: %s %.4f, %+.4f against the start, %+.4f against the last step",
        *(kept, name, after[name], after[name] - before[name], after[name] - last[name]),
    )
    if before[name] > after[name]:
        log.warning(
            "warning: the model was better before training (%s %.4f, now %.4f): lower the learning "
            "rate, train fewer steps, or evaluate more often and keep the best",
            *(name, before[name], after[name]),
        )


def _export_step(
    trainable: TrainableModel,
    recipe: Recipe,
    adapters: lora.Adapters | None,
    made: ExportSpec,
    card: TrainedModelCard,
    job: StageJob,
    *,
    part: str,
    last: bool,
) -> StageResult:
    """Write a checkpoint of the last run of a stage as a model."""
    assert job.export is not None
    step, folder = job.export.step, job.export.folder
    if not last:
        return StageResult(job.output / f"{MODEL}-{part}", step, {}, {})
    found = list_checkpoints(job.output / RUN / part)
    if step not in found:
        raise InputError(
            f"step is {step}; `{job.output / RUN / part}` has the checkpoints "
            f"{', '.join(map(str, found)) or '(none)'}"
        )
    load_weights(found[step], trainable, averaged=recipe.ema is not None)
    if adapters is not None:
        lora.merge_adapters(trainable.model)
    settings = {**card.settings, "steps": str(step)}
    _write(trainable.model, made, replace(card, settings=settings), folder, job.world)
    return StageResult(folder, step, {}, {}, step)


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
    start: Checkpoint,
    data: Dataset,
    plan: BatchSchedule,
    recipe: Recipe,
    adapters: object,
    run: Path,
) -> dict[str, str]:
    recorded = recorded_identity(run).get("model")  # an earlier version named the model otherwise
    return {
        "model": recorded if recorded == start.former_fingerprint else start.fingerprint(),
        "data": data.fingerprint,
        "order": plan.order.fingerprint,
        "limits": repr(recipe.limits),
        "adapters": repr(adapters),
    }


def _log_metrics(when: str, metrics: Mapping[str, float]) -> None:
    if metrics:
        values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        log.info("%s training: %s", when, values)


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
        settings={"steps": str(plan.steps), "batch": str(plan.batch)} | _shown_settings(recipe),
        metrics=metrics,
        notes=made.notes,
    )


def _shown_settings(recipe: Recipe) -> dict[str, str]:
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
        late=made.late,
    )
    with torch.no_grad():
        export_model(model, folder, package, world)
    if world.is_first and made.plan.masked is not None and made.plan.pooling is not None:
        write_pooling(folder, made.plan.pooling)  # the next stage reads it as an encoder
    world.wait()


def replaced(start: Checkpoint, **changes: Any) -> Plan:
    """Return a checkpoint's plan with other heads, pooling or positions."""
    return replace(start.plan, **changes)
