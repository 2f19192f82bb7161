"""Settings of a training run: those that shape the result, and those that do not."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from opengte.errors import InputError
from opengte.train.distributed import Parallelism
from opengte.train.optim import LearningRateSchedule

# may change on resume: these affect how a run is computed and recorded, not its result
FREE_ON_RESUME = (
    "parallel",
    "chunk_tokens",
    "memory",
    "recompute",
    "compile",
    "log_every",
    "save_every",
    "keep",
    "keep_best",
    "patience",
    "evaluate_every",
    "on_trouble",
    "peak_tflops",
    "tensorboard",
    "progress",
)


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. Raises InputError for impossible values.

    warmup, decay and final are shares of the run or of the peak rate, see `optim.learning_rate`.
    memory, in GiB, bounds the activations of a process: larger batches go through the gradient
    cache. A loss that is not finite, or above `spike` times the median of its source's last losses,
    is handled as `on_trouble` says. Settings in `FREE_ON_RESUME` may differ when a run is resumed.

    >>> TrainingSettings(steps=1000, learning_rate=1e-4, schedule="cosine").warmup
    0.05
    """

    steps: int
    learning_rate: float = 2e-5
    warmup: float = 0.05
    schedule: LearningRateSchedule = "linear"
    decay: float = 0.2
    final: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    clip: float | None = 1.0  # largest norm of all gradients together
    ema: float | None = None  # decay of an average of the weights; evaluations use the average
    dropout: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    spike: float | None = None
    on_trouble: Literal["stop", "skip"] = "stop"
    parallel: Parallelism = "auto"
    chunk_tokens: int | None = None  # tokens computed at once; None: 2048 on a CPU, 16384 on a GPU
    memory: float = 4.0
    recompute: bool = False  # keep a layer's input only, run it again in the backward pass
    compile: bool = False
    log_every: int = 10
    save_every: int | None = 500
    keep: int = 2  # checkpoints, the best one apart
    keep_best: bool = False  # end with the weights of the best evaluation, not of the last step
    patience: int | None = None  # evaluations without a better one, after which training ends
    evaluate_every: int | None = None
    peak_tflops: float | None = None  # of the device; None: measured with a matrix product
    tensorboard: bool = False
    progress: bool | None = None  # None: where stderr is a terminal

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("steps", "log_every", "keep"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("save_every", "evaluate_every", "chunk_tokens", "patience"):
            value = getattr(self, name)
            self._check(name, value is None or value >= 1, "at least 1, or None")
        for name in ("learning_rate", "memory", "epsilon"):
            self._check(name, getattr(self, name) > 0, "above 0")
        for name in ("warmup", "decay", "final"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a share from 0 to 1")
        self._check("weight_decay", self.weight_decay >= 0, "at least 0")
        self._check("dropout", 0 <= self.dropout < 1, "0 or more and below 1")
        self._check("clip", self.clip is None or self.clip > 0, "above 0, or None")
        self._check("ema", self.ema is None or 0 < self.ema < 1, "between 0 and 1, or None")
        self._check("spike", self.spike is None or self.spike > 1, "above 1, or None")
        self._check("betas", all(0 <= b < 1 for b in self.betas), "0 or more and below 1")
        for name, kind in (("schedule", LearningRateSchedule), ("parallel", Parallelism)):
            self._check(name, getattr(self, name) in get_args(kind), _one_of(get_args(kind)))
        if self.patience is not None and self.evaluate_every is None:
            raise InputError("patience counts evaluations: give evaluate_every, too")
        self._check("precision", self.precision in ("fp32", "bf16"), "fp32 or bf16")
        self._check("on_trouble", self.on_trouble in ("stop", "skip"), "stop or skip")

    def _check(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            raise InputError(f"{name} is {getattr(self, name)!r}, expected {expected}")

    def identity(self) -> dict[str, str]:
        """Return the settings that shape the result, which a resumed run must match."""
        names = [field.name for field in fields(self) if field.name not in FREE_ON_RESUME]
        return {name: repr(getattr(self, name)) for name in names}


def _one_of(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}"
