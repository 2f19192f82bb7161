"""The training loop: batches to gradients to weights, with exact resume from checkpoints."""

import hashlib
import logging
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from opengte.data import BatchLoader, TrainingBatch
from opengte.errors import EngineError, InputError
from opengte.train import optim
from opengte.train.distributed import ParallelModule, World
from opengte.train.gradient_cache import GradientCache
from opengte.train.models.trainable import TrainableModel, activation_bytes, flops_per_token
from opengte.train.objectives import LossShare, Objective
from opengte.train.reporting import report_page
from opengte.train.reporting.training_log import (
    StepRecord,
    ThroughputMeter,
    TrainingLog,
    measure_flops,
)
from opengte.train.saving import checkpoints
from opengte.train.settings import TrainingSettings

log = logging.getLogger("opengte.train")

MakeLoader = Callable[[int, int, int], BatchLoader]  # first step, rank, number of processes
# step, model -> metrics, of which the first decides
Evaluate = Callable[[int, TrainableModel], Mapping[str, float]]

REMEMBERED = 32  # losses of a source that a new one is compared with
PATIENCE = 10  # steps that may be skipped one after the other


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    step is the number of steps done, skipped how many of them updated nothing; metrics are those of
    the last evaluation, best those of the best, at best_step; interrupted means that the run was
    stopped and can be resumed.
    """

    step: int
    skipped: int
    metrics: Mapping[str, float]
    best: Mapping[str, float]
    best_step: int | None
    interrupted: bool


def train(
    trainable: TrainableModel,
    batches: MakeLoader,
    objective: Objective,
    settings: TrainingSettings,
    folder: Path,
    *,
    world: World | None = None,
    identity: Mapping[str, str] | None = None,
    evaluate: Evaluate | None = None,
    resume: bool = False,
) -> TrainingResult:
    r"""Train a model in place; write checkpoints, tables and plots to a folder.

    batches(step, rank, size) returns this process's `BatchLoader` from a step on. identity names
    what else shapes the result (data, order, model): a run resumes only with the same settings,
    objective and identity. evaluate(step, trainable) runs on all processes every `evaluate_every`
    steps and at the end; the first of its metrics decides which checkpoint is the best.

    With resume, the run continues from its last checkpoint, with the same batches and losses as an
    uninterrupted run. With an average of weights (`ema`) the model ends up with the average. After
    Ctrl-C or SIGTERM the step is finished and saved, and the result has `interrupted` set.

    Raises InputError if the folder has a run and resume is False, or if the run was started with
    another configuration; EngineError if a step's loss or gradient is not finite or spikes
    (`on_trouble="stop"`), with the weights before that step saved.

    >>> from opengte import checkpoint, data
    >>> from opengte.train import Contrastive, TrainableModel, TrainingSettings, load_trainable
    >>> _ = Path("faq.csv").write_text("query,answer\nhow,so\nwhy,because\n")
    >>> start = checkpoint.read_checkpoint(folder)
    >>> tokenizer = data.SourceTokenizer(start.tokenizer, start.prompts, 32, 32)
    >>> _ = data.prepare([data.SourceSpec("faq", (Path("faq.csv"),))], Path("data"), tokenizer)
    >>> dataset = data.Dataset.open("data", start.tokenizer.fingerprint)
    >>> sampler = data.BatchSampler.of(dataset, batch=2)
    >>> def loader(step, rank, size):
    ...     return data.BatchLoader(dataset, sampler, start=step, rank=rank, world=size)
    >>> model, settings = load_trainable(start), TrainingSettings(steps=2, peak_tflops=1.0)
    >>> result = train(TrainableModel(model), loader, Contrastive(), settings, Path("run"))
    >>> result.step, result.interrupted
    (2, False)
    """
    world = world or World()
    run = _Run(trainable, objective, settings, folder, world, identity or {})
    run.begin(resume)
    start = run.progress.step
    journal = run.open_log() if world.is_first else None
    try:
        with _interrupts() as interrupted, batches(start, world.rank, world.size) as source:
            stopped = run.go(source, interrupted, evaluate, journal)
    finally:
        if journal is not None:
            journal.close()
    if not stopped:
        run.take_weights()
    if world.is_first:
        report_page.write_report(folder)
    return run.result(stopped)


@dataclass(eq=False)
class _Run:
    trainable: TrainableModel
    objective: Objective
    settings: TrainingSettings
    folder: Path
    world: World
    extra: Mapping[str, str]
    progress: checkpoints.TrainingProgress = field(default_factory=checkpoints.TrainingProgress)
    average: optim.WeightAverage | None = None
    failures: int = 0  # skipped one after the other

    def begin(self, resume: bool) -> None:
        """Distribute the model over processes, create the optimiser, load the last checkpoint."""
        settings, trainable = self.settings, self.trainable
        complete = checkpoints.list_checkpoints(self.folder)
        if complete and not resume:
            raise InputError(
                f"`{self.folder}` has a run of {list(complete)[-1]} steps: resume it with "
                "resume=True, or give another folder"
            )
        if trainable.precision != settings.precision:
            raise InputError(
                f"precision is {settings.precision!r} in settings and {trainable.precision!r} in "
                "the model: give both the same"
            )
        sharded = settings.parallel == "fsdp2"
        if not sharded:
            trainable.materialise(self.world.device)
        trainable.train()
        trainable.set_dropout(settings.dropout)
        trainable.model.recompute = settings.recompute
        if settings.compile:
            for part in trainable.parts:
                part.compile(dynamic=True)
        precision = settings.precision
        self.parallel = ParallelModule(
            trainable, trainable.parts, self.world, settings.parallel, precision
        )
        if sharded:
            trainable.materialise(self.world.device)
        self.passes = GradientCache(self.parallel, self.world, *self._sizes())
        self.optimiser = optim.adamw(
            trainable,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            epsilon=settings.epsilon,
        )
        self.average = optim.WeightAverage(trainable, settings.ema) if settings.ema else None
        if complete:
            step, path = list(complete.items())[-1]
            self.progress = checkpoints.load_checkpoint(path, self._parts(), self._identity())
            log.info("resumed `%s` at step %d", self.folder, step)
        if self.world.is_first:
            checkpoints.prune_checkpoints(self.folder, settings.keep, self.progress.best_step)
        self.world.wait()

    def open_log(self) -> TrainingLog:
        """Open the tables and the progress bar of the run."""
        settings = self.settings
        return TrainingLog(
            self.folder,
            self.progress.step,
            settings.steps,
            tensorboard=settings.tensorboard,
            progress=settings.progress,
        )

    def result(self, interrupted: bool) -> TrainingResult:
        """Return how the run ended."""
        done = self.progress
        metrics = dict(done.metrics)
        best = dict(done.best_metrics)
        return TrainingResult(done.step, done.skipped, metrics, best, done.best_step, interrupted)

    def take_weights(self) -> None:
        """End with the weights of the best evaluation, or the last ones, or their average."""
        best = self.progress.best_step
        if self.settings.keep_best and best not in (None, self.progress.step):
            path, averaged = self.folder / f"step-{best:08d}", self.average is not None
            checkpoints.load_weights(path, self.trainable, averaged=averaged)
        elif self.average is not None:
            self.average.exchange()

    def _exhausted(self) -> bool:
        """Return whether evaluations have not become better for too long."""
        patience = self.settings.patience
        return patience is not None and self.progress.since_best >= patience

    def _sizes(self) -> tuple[int, int]:
        """Return the tokens of a chunk, and the tokens whose activations fit into memory."""
        each = activation_bytes(self.trainable.model, self.settings.precision)
        if self.settings.recompute:
            each = max(1, each // 8)
        fitting = max(1, int(self.settings.memory * 2**30 / each))
        default = 2048 if self.world.device.type == "cpu" else 16384
        chunk = self.settings.chunk_tokens or min(default, fitting)
        return chunk, fitting

    def _parts(self) -> checkpoints.TrainingState:
        return checkpoints.TrainingState(self.trainable, self.optimiser, self.average)

    def _identity(self) -> dict[str, str]:
        plan = hashlib.sha256(repr(self.trainable.model.plan).encode()).hexdigest()[:16]
        own = {"plan": plan, "objective": repr(self.objective)}
        return {**self.settings.identity(), **own, **self.extra}

    def go(
        self,
        source: BatchLoader,
        interrupted: Callable[[], bool],
        evaluate: Evaluate | None,
        journal: TrainingLog | None,
    ) -> bool:
        """Do the remaining steps; return whether they were interrupted."""
        settings, progress = self.settings, self.progress
        meter = ThroughputMeter(self.world.device, self._peak())
        stream, waited = iter(source), 0.0
        while progress.step < settings.steps and not self._exhausted():
            asked = time.perf_counter()
            batch = next(stream)
            waited = time.perf_counter() - asked
            record, work, stop = self._step(batch, interrupted())
            stop = stop or (self.world.size == 1 and interrupted())  # processes agree in a step
            meter.add(record, waited=waited, **work)
            if journal is not None:
                journal.step(record)
                if record.step % settings.log_every == 0 or progress.step == settings.steps:
                    journal.line(meter.line(record, self.world.size), log.info)
            self._after_step(evaluate, journal, stop)
            if stop:
                return True
        return False

    def _peak(self) -> float:
        if self.settings.peak_tflops is not None:
            return self.settings.peak_tflops * 1e12
        dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float32
        return measure_flops(self.world.device, dtype)

    def _step(
        self, batch: TrainingBatch, interrupted: bool
    ) -> tuple[StepRecord, dict[str, float], bool]:
        """Do one step; return its record, the work it took, and whether to stop after it."""
        progress, step = self.progress, self.progress.step
        self.optimiser.zero_grad(set_to_none=True)
        before = self.passes.computed
        share = self.objective.step(self.passes, batch, (self.settings.seed, step))
        done = self.passes.computed - before
        loss, tokens, squares, computed, rows, stop = self._totals(
            share, share.tokens, share.square_tokens, done, _checksum(batch), interrupted
        )
        norm = float(optim.gradient_norm(self.trainable.parameters()))
        rate = self._rate(step)
        trouble = self._trouble(batch, loss, norm)
        if trouble is None:
            self._update(rate, norm)
            self._remember(batch.source.name, loss)
        else:
            self._skip(trouble, batch, share)
        progress.step += 1
        name, skipped = batch.source.name, trouble is not None
        record = StepRecord(progress.step, name, f"{int(rows):x}", loss, norm, rate, skipped)
        flops = 3 * self._forward_flops(tokens, squares)
        return (
            record,
            {
                "pairs": float(batch.total),
                "tokens": tokens,
                "computed": computed,
                "flops": flops,
            },
            stop > 0,
        )

    def _totals(self, share: LossShare, *numbers: float) -> list[float]:
        """Return the loss and the given numbers, summed over processes."""
        values = torch.tensor([0.0, *numbers], dtype=torch.float64, device=self.world.device)
        values[0] = share.loss
        totals: list[float] = self.world.sum(values).tolist()
        return totals

    def _forward_flops(self, tokens: float, squares: float) -> float:
        model = self.trainable.model
        attentions = [layer.attention for layer in model.plan.layers]
        scores = sum(4.0 * a.heads * a.head_dim for a in attentions) * squares
        return flops_per_token(model) * tokens + scores

    def _rate(self, step: int) -> float:
        settings = self.settings
        return optim.learning_rate(
            step,
            steps=settings.steps,
            peak=settings.learning_rate,
            warmup=settings.warmup,
            schedule=settings.schedule,
            decay=settings.decay,
            final=settings.final,
        )

    def _update(self, rate: float, norm: float) -> None:
        if self.settings.clip is not None and norm > self.settings.clip:
            gradients = [p.grad for p in self.trainable.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, self.settings.clip / norm)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        if self.average is not None:
            self.average.update()
        self.failures = 0

    def _trouble(self, batch: TrainingBatch, loss: float, norm: float) -> str | None:
        """Return what is wrong with a step, None if nothing is."""
        if not math.isfinite(loss) or not math.isfinite(norm):
            return f"the loss is {loss} and the gradient's norm {norm}"
        past = self.progress.history.get(batch.source.name, [])
        if self.settings.spike is None or len(past) < REMEMBERED // 4:
            return None
        usual = statistics.median(past)
        if loss > self.settings.spike * usual:
            return f"the loss is {loss:.4g}, and {usual:.4g} was usual for its source"
        return None

    def _remember(self, source: str, loss: float) -> None:
        past = self.progress.history.setdefault(source, [])
        past.append(loss)
        del past[:-REMEMBERED]

    def _skip(self, trouble: str, batch: TrainingBatch, share: LossShare) -> None:
        """Skip a step, or save the state before the step and stop."""
        self.optimiser.zero_grad(set_to_none=True)
        where = self._describe(batch, share)
        self.failures += 1
        if self.settings.on_trouble == "stop" or self.failures > PATIENCE:
            self._save()
            raise EngineError(
                f"training stopped before step {self.progress.step + 1}: {trouble}. {where} The "
                "weights before this step are saved: look at these rows, lower the learning rate, "
                "or resume with on_trouble='skip'."
            )
        log.warning("step %d is skipped: %s. %s", self.progress.step + 1, trouble, where)
        self.progress.skipped += 1

    def _describe(self, batch: TrainingBatch, share: LossShare) -> str:
        """Describe a batch: its source, its rows, and the processes whose share is not finite."""
        ill = self.world.counts(not math.isfinite(float(share.loss)))
        rows = [int(row) for row in batch.rows]
        places = [batch.source.origin(row) for row in rows[:3]]
        first = ", ".join(f"{file}:{line}" for file, line in places)
        text = f"The batch is of source {batch.source.name!r}, {batch.total} rows; "
        if any(ill):
            text += f"not finite in process {', '.join(str(r) for r, n in enumerate(ill) if n)}; "
        return text + f"process {self.world.rank} has rows {rows[:8]} ... ({first}, ...)."

    def _after_step(
        self, evaluate: Evaluate | None, journal: TrainingLog | None, stop: bool
    ) -> None:
        settings, progress = self.settings, self.progress
        last = progress.step == settings.steps
        every = settings.evaluate_every
        best = False
        if evaluate is not None and (last or (every is not None and progress.step % every == 0)):
            best = self._evaluate(evaluate, journal)
        save = settings.save_every
        if (
            last
            or stop
            or best
            or self._exhausted()
            or (save is not None and progress.step % save == 0)
        ):
            self._save()

    def _evaluate(self, evaluate: Evaluate, journal: TrainingLog | None) -> bool:
        """Evaluate the model, or its average; return whether it is the best so far."""
        progress = self.progress
        if self.average is not None:
            self.average.exchange()
        self.trainable.eval()
        metrics = dict(evaluate(progress.step, self.trainable))
        self.trainable.train()
        self.parallel.rest()
        if self.average is not None:
            self.average.exchange()
        progress.metrics = metrics
        if journal is not None:
            journal.evaluation(progress.step, metrics, log.info)
        first = next(iter(metrics.values()), None)
        if first is None or (progress.best is not None and first <= progress.best):
            progress.since_best += 1
            return False
        progress.best, progress.best_step = first, progress.step
        progress.best_metrics, progress.since_best = metrics, 0
        return True

    def _save(self) -> None:
        self.parallel.rest()
        checkpoints.save_checkpoint(
            self.folder, self._parts(), self.progress, self._identity(), self.world
        )
        if self.world.is_first:
            checkpoints.prune_checkpoints(self.folder, self.settings.keep, self.progress.best_step)


def _checksum(batch: TrainingBatch) -> int:
    """Return a checksum of rows; those of all processes add up to that of the global batch."""
    mixed = batch.rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return int((mixed >> np.uint64(32)).sum())


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C and the signal to terminate; the second time they act as usual."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        if noted.is_set():
            raise KeyboardInterrupt
        noted.set()
        log.warning("interrupted: the step is finished and saved; once more to stop at once")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
