"""The compiled CPU engine: C++ kernels over packed batches, without PyTorch."""

import math
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from opengte.arch.plan import BucketBias, Dense, Norm, Plan, Rope, UnitLength
from opengte.checkpoint import Checkpoint
from opengte.engine.base import EngineResult, cannot_be_pickled
from opengte.engine.native_extension import choose_isa, load_extension
from opengte.engine.native_weights import (
    FORMAT,
    Precision,
    PreparedWeights,
    WeightLayout,
    prepare_weights,
)
from opengte.engine.precision import PrecisionTrial, choose_precision, read_trials
from opengte.engine.prepared_cache import prepared_folder
from opengte.errors import EngineError, InputError
from opengte.types import Floats, Output, PackedBatch
from opengte.weights import WeightChunk

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
MICRO_TOKENS = 256  # tokens that one thread takes through all layers at a time
BATCH_TOKENS = 16384


def available_threads() -> int:
    """Return the number of CPUs that this process may use, within its container's quota."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, min(count, math.ceil(quota))) if quota else count


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the number of CPUs that the control group grants; None means no limit."""
    try:
        if (root / "cpu.max").is_file():
            limit, period = (root / "cpu.max").read_text().split()
        else:
            limit = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        granted = int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return granted if granted > 0 else None


class NativeEngine:
    """A model in the compiled CPU engine.

    A text's vector is the same bit for bit in every batch and with any number of threads.
    """

    name = "native"
    device = "cpu"
    max_batch_tokens = BATCH_TOKENS

    def __init__(
        self, plan: Plan, weights: PreparedWeights, threads: int, micro_tokens: int = MICRO_TOKENS
    ) -> None:
        self.precision: str = weights.layout.precision
        self.isa = weights.layout.isa
        self.threads = threads
        self._plan = plan
        try:
            self._engine = load_extension().Engine(
                plan=_as_spec(plan, weights.layout),
                precisions=weights.layout.linears,
                weights=weights.arrays,
                isa=weights.layout.isa,
                threads=threads,
                micro_tokens=micro_tokens,
            )
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"the CPU engine cannot run this model: {error}") from None

    @property
    def workspace_bytes(self) -> int:
        """Bytes held for activations: grows to what the largest batch needs and never shrinks."""
        return int(self._engine.workspace_bytes)

    def run(self, batch: PackedBatch, outputs: frozenset[Output]) -> EngineResult:
        """Compute the requested outputs of an encoder."""
        count, tokens, plan = _count(batch), len(batch.ids), self._plan
        result = EngineResult(
            dense=_empty("dense" in outputs, count, plan.dimension),
            sparse=_empty("sparse" in outputs, tokens),
            tokens=_empty("tokens" in outputs, tokens, plan.token_width),
            states=_empty("states" in outputs, tokens, plan.width),
        )
        self._run(batch, result)
        return result

    def score(self, batch: PackedBatch) -> EngineResult:
        """Compute the scores of a reranker's pairs."""
        head = self._plan.score
        classes = (head.outputs,) if head is not None and head.every else ()
        result = EngineResult(score=_empty(True, _count(batch), *classes))
        self._run(batch, result)
        return result

    def __reduce__(self) -> NoReturn:
        raise cannot_be_pickled()

    def _run(self, batch: PackedBatch, into: EngineResult) -> None:
        try:
            self._engine.run(
                ids=_ints(batch.ids, "ids"),
                cu_seqlens=_ints(batch.cu_seqlens, "cu_seqlens"),
                type_ids=_ints(batch.type_ids, "type_ids"),
                pool_from=_ints(batch.pool_from, "pool_from"),
                attended=None if batch.attended is None else _ints(batch.attended, "attended"),
                dense=into.dense,
                sparse=into.sparse,
                tokens=into.tokens,
                states=into.states,
                score=into.score,
            )
        except ValueError as error:
            raise InputError(f"the batch cannot be computed: {error}") from None
        except RuntimeError as error:
            raise EngineError(f"the CPU engine failed: {error}") from None


def _count(batch: PackedBatch) -> int:
    if len(batch.cu_seqlens) == 0:
        raise InputError("cu_seqlens is empty, expected one more value than there are sequences")
    return len(batch)


def _empty(wanted: bool, *shape: int) -> Floats | None:
    return np.empty(shape, dtype=np.float32) if wanted else None


def _ints(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.int32]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{name} is {array.dtype} of shape {array.shape}, expected 1-d int32")
    if array.dtype != np.int32 and array.size:
        low, high = int(array.min()), int(array.max())
        if low < -(2**31) or high >= 2**31:
            raise InputError(f"{name} has values from {low} to {high}, expected int32")
    return np.ascontiguousarray(array, dtype=np.int32)


def load_native_engine(
    checkpoint: Checkpoint,
    *,
    precision: str = "auto",
    threads: int | None = None,
    device: str | None = None,
    cache: bool = True,
) -> NativeEngine:
    """Load a checkpoint into the CPU engine; its weights are prepared on first use.

    precision is `fp32`, `bf16`, `int8` or `auto`: the fastest precision whose vectors have a cosine
    of at least `precision.LOWEST_COSINE` to those of fp32, measured at the first load. threads
    defaults to `available_threads()`. cache=False prepares the weights in memory and writes no
    file.
    """
    if device not in (None, "cpu"):
        raise EngineError(f"device is {device!r}, and the native engine runs on the CPU only")
    isa, threads = choose_isa(), threads or available_threads()
    folder = prepared_folder() if cache else None
    if precision == "auto" and not checkpoint.plan.layers:
        precision = "fp32"  # there is nothing to multiply
    elif precision == "auto":
        precision = _choose_precision(checkpoint, isa, threads, folder)
    layout = WeightLayout.of(
        checkpoint.plan, _check_precision(precision), isa, checkpoint.word_dtype
    )
    return NativeEngine(checkpoint.plan, prepare_weights(layout, checkpoint, folder), threads)


def _choose_precision(checkpoint: Checkpoint, isa: str, threads: int, folder: Path | None) -> str:
    def build(plan: Plan, chunks: Iterable[WeightChunk], name: str) -> NativeEngine:
        stored = checkpoint.word_dtype
        known = _check_precision(name)
        return build_native_engine(
            plan, chunks, precision=known, threads=threads, isa=isa, word_dtype=stored
        )

    remembered = _trials_file(folder, checkpoint, isa) if folder else None
    return choose_precision(checkpoint, PRECISIONS, build, remembered)


def _trials_file(folder: Path, checkpoint: Checkpoint, isa: str) -> Path:
    return folder / f"{checkpoint.weights_digest[:32]}-{isa}-{FORMAT}.precision.json"


def recorded_precisions(checkpoint: Checkpoint) -> tuple[list[PrecisionTrial], float]:
    """Return what was measured when a precision was chosen on this machine, and the Unix time."""
    return read_trials(_trials_file(prepared_folder(), checkpoint, choose_isa()))


def _check_precision(wanted: str) -> Precision:
    for known in PRECISIONS:
        if wanted == known:
            return known
    raise EngineError(
        f"precision is {wanted!r}, which the native engine does not have: "
        f"expected auto, {', '.join(PRECISIONS)}"
    )


def build_native_engine(
    plan: Plan,
    chunks: Iterable[WeightChunk],
    *,
    precision: Precision = "fp32",
    threads: int = 1,
    isa: str | None = None,
    word_dtype: str = "fp32",
    micro_tokens: int = MICRO_TOKENS,
) -> NativeEngine:
    """Build an engine in memory from a stream of weights."""
    layout = WeightLayout.of(plan, precision, isa or choose_isa(), word_dtype)
    weights = PreparedWeights.allocate(layout)
    weights.fill(chunks)
    return NativeEngine(plan, weights, threads, micro_tokens)


def _as_spec(plan: Plan, layout: WeightLayout) -> dict[str, Any]:
    """Return the plan as plain dictionaries, which is what the C++ code takes."""
    spec = asdict(plan)
    ropes: dict[tuple[Rope, int], int] = {}
    for layer, described in zip(plan.layers, spec["layers"], strict=True):
        attention = layer.attention
        if attention.rope is not None:
            key = (attention.rope, attention.head_dim)
            described["attention"]["rope"] = ropes.setdefault(key, len(ropes))
    spec |= {
        "precision": layout.precision,
        "word_dtype": layout.word_dtype,
        "ropes": [
            {"inverse": list(rope.inverse_frequencies(head_dim)), "magnitude": rope.magnitude}
            for rope, head_dim in ropes
        ],
        "position_bias": _bias_spec(plan),
        "layers": list(spec["layers"]),
        "steps": [_step_spec(step) for step in plan.dense],
        "token_head": [{"slot": slot, **asdict(dense)} for slot, dense in plan.token_head],
        "poolings": ["mean"] if plan.latent else list(plan.poolings),
    }
    if plan.score is not None:
        spec["score"]["probability"] = plan.score.vocabulary_rows is not None
    return spec


def _step_spec(step: Dense | Norm | UnitLength) -> dict[str, Any]:
    kind = "dense" if isinstance(step, Dense) else "norm" if isinstance(step, Norm) else "unit"
    return {"step": kind, **asdict(step)}


def _bias_spec(plan: Plan) -> dict[str, Any] | None:
    """Return the bias of attention scores for each distance that two tokens of a text can have."""
    bias, positions = plan.position_bias, plan.max_positions
    if bias is None:
        return None
    if isinstance(bias, BucketBias):
        distances = range(1 - positions, positions)
        buckets = [bias.bucket(distance) for distance in distances]
        return {"positions": positions, "count": bias.buckets, "buckets": buckets}
    slopes = list(bias.slopes(plan.layers[0].attention.heads))
    return {"positions": positions, "slopes": slopes}
