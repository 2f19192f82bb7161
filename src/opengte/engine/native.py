"""The CPU engine: C++ kernels over packed batches, without torch.

Weights are prepared once (packed for the processor, quantised where the precision asks for it) and
kept in a file of the cache, which later loads only map: several processes share its pages.
"""

import importlib
import json
import logging
import math
import mmap
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from opengte import hub
from opengte.arch.plan import Plan, Rope
from opengte.checkpoint import Checkpoint
from opengte.engine.base import EngineResult
from opengte.engine.precision import choose_precision
from opengte.errors import EngineError, InputError
from opengte.types import Floats, Output, PackedBatch
from opengte.weights import WeightChunk

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]
Precision = Literal["fp32", "bf16", "int8"]

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
FORMAT = 4  # of prepared weights: raise it when their layout changes
MAGIC = b"opengte prepared weights\n"
ALIGNMENT = 64
MICRO_TOKENS = 256  # tokens that a thread takes through all layers at a time
BATCH_TOKENS = 16384
DTYPES = {"F32": "fp32", "F64": "fp32", "F16": "fp16", "BF16": "bf16"}
HEADS = ("dense.", "sparse", "tokens", "score.", "latent.kv")  # small or used once: always fp32


def available() -> bool:
    """Return whether the compiled extension is installed."""
    try:
        _extension()
    except EngineError:
        return False
    return True


def isa_levels() -> tuple[str, ...]:
    """Return the instruction-set levels of this machine and build, best first."""
    return tuple(_extension().levels())


def _extension() -> Any:
    try:
        return importlib.import_module("opengte._native")
    except ImportError as error:
        raise EngineError(
            f"the compiled CPU engine is not installed ({error}). Reinstall OpenGTE where a C++20 "
            "compiler is present, or use engine='torch'."
        ) from None


def choose_isa() -> str:
    """Return the level to use: `$OPENGTE_ISA`, or the best one."""
    found = isa_levels()
    wanted = os.environ.get("OPENGTE_ISA")
    if not wanted:
        return found[0]
    if wanted not in found:
        raise EngineError(f"OPENGTE_ISA is {wanted!r}, expected one of {', '.join(found)}")
    return wanted


def available_threads() -> int:
    """Return the processors that this process may use, a container's quota considered."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _quota()
    return max(1, min(count, math.ceil(quota))) if quota else count


def _quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the processors that the control group grants, None without a limit."""
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
    """A model in the CPU engine; the same text gives the same bits in any batch, on any threads."""

    name = "native"
    device = "cpu"
    max_batch_tokens = BATCH_TOKENS

    def __init__(
        self, plan: Plan, weights: "PreparedWeights", threads: int, micro_tokens: int = MICRO_TOKENS
    ) -> None:
        self.precision: str = weights.layout.precision
        self.isa = weights.layout.isa
        self.threads = threads
        self._plan = plan
        try:
            self._engine = _extension().Engine(
                plan=_spec(plan, weights.layout),
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
        """Bytes that the engine holds for activations; grows to what the batches need and stays."""
        return int(self._engine.workspace_bytes)

    def run(self, batch: PackedBatch, outputs: frozenset[Output]) -> EngineResult:
        """Compute the wanted outputs of an encoder."""
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
        result = EngineResult(score=_empty(True, _count(batch)))
        self._run(batch, result)
        return result

    def _run(self, batch: PackedBatch, into: EngineResult) -> None:
        try:
            self._engine.run(
                ids=_ints(batch.ids, "ids"),
                cu_seqlens=_ints(batch.cu_seqlens, "cu_seqlens"),
                type_ids=_ints(batch.type_ids, "type_ids"),
                pool_from=_ints(batch.pool_from, "pool_from"),
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
    """Load a checkpoint into the CPU engine, preparing its weights on first use.

    precision is `fp32`, `bf16`, `int8`, or `auto`: the fastest whose vectors keep a cosine of
    `precision.LOWEST_COSINE` to fp32, measured at the first load. threads defaults to the
    processors available.
    """
    if device not in (None, "cpu"):
        raise EngineError(f"device is {device!r}, and the native engine runs on the CPU only")
    isa, threads = choose_isa(), threads or available_threads()
    folder = hub.cache_root() / "prepared" if cache else None
    if precision == "auto":
        precision = _fastest_faithful(checkpoint, isa, threads, folder)
    layout = WeightLayout.of(
        checkpoint.plan, _known_precision(precision), isa, checkpoint.stored_dtype
    )
    return NativeEngine(checkpoint.plan, _prepared(layout, checkpoint, folder), threads)


def _fastest_faithful(checkpoint: Checkpoint, isa: str, threads: int, folder: Path | None) -> str:
    def build(plan: Plan, chunks: Iterable[WeightChunk], name: str) -> NativeEngine:
        stored = checkpoint.stored_dtype
        known = _known_precision(name)
        return build_native_engine(
            plan, chunks, precision=known, threads=threads, isa=isa, word_dtype=stored
        )

    name = f"{checkpoint.fingerprint()}-{isa}-{FORMAT}.precision.json"
    return choose_precision(checkpoint, PRECISIONS, build, folder / name if folder else None)


def _known_precision(wanted: str) -> Precision:
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
    """Build an engine from a stream of weights, in memory."""
    layout = WeightLayout.of(plan, precision, isa or choose_isa(), word_dtype)
    weights = PreparedWeights.allocate(layout)
    weights.fill(chunks)
    return NativeEngine(plan, weights, threads, micro_tokens)


# --- prepared weights ---


@dataclass(frozen=True)
class ArraySpan:
    """Where one prepared array lies: its offset and size in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class WeightLayout:
    """How a plan's weights are prepared: the precision of each matrix, the place of each array.

    linears maps each matrix, by its slot without `.weight`, to its precision, rows to its number of
    outputs; smoothed maps the matrices whose inputs are smoothed to the norm that these come from;
    parts maps matrices (weights, scales and bias in one array) and other slots to their places.
    """

    precision: Precision
    isa: str
    word_dtype: str
    linears: dict[str, Precision]
    packers: dict[str, Any]
    rows: dict[str, int]
    smoothed: dict[str, str]
    parts: dict[str, ArraySpan]
    size: int

    @classmethod
    def of(cls, plan: Plan, precision: Precision, isa: str, stored_dtype: str) -> "WeightLayout":
        """Lay out a plan's weights."""
        word_dtype = stored_dtype if stored_dtype in ("fp16", "bf16") else "fp32"
        linears: dict[str, Precision] = {}
        packers: dict[str, Any] = {}
        sizes: dict[str, int] = {}
        packer = _extension().Packer
        gated = {f"layers.{i}.up" for i, layer in enumerate(plan.layers) if layer.ffn.gated}
        gated.add("latent.up")
        for slot, spec in plan.slots().items():
            name = slot.removesuffix(".weight")
            if slot.endswith(".weight") and len(spec.shape) == 2:
                linears[name] = _precision_of(name, precision)
                packers[name] = packer(isa, linears[name], name in gated, *spec.shape)
                sizes[name] = packers[name].bytes
            elif slot.removesuffix(".bias") not in linears:
                item = 2 if slot == "embedding.word" and word_dtype != "fp32" else 4
                sizes[slot] = item * math.prod(spec.shape)
        parts, offset = {}, 0
        for name, size in sizes.items():
            parts[name] = ArraySpan(offset, size)
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        rows = {name: plan.slots()[f"{name}.weight"].shape[0] for name in linears}
        smoothed = {name: norm for name, norm in _norms(plan).items() if linears[name] == "int8"}
        return cls(precision, isa, word_dtype, linears, packers, rows, smoothed, parts, offset)


def _precision_of(matrix: str, precision: Precision) -> Precision:
    """Return the precision of one matrix: heads are few and small, and stay exact."""
    return "fp32" if matrix.startswith(HEADS) else precision


def _norms(plan: Plan) -> dict[str, str]:
    """Return, for the matrices that read a norm's output and nothing else, that norm's slot."""
    found: dict[str, str] = {}
    before = "embedding.norm" if plan.embedding.norm else None
    for i, layer in enumerate(plan.layers):
        own = f"layers.{i}.attention_norm" if layer.attention_norm else None
        after = f"layers.{i}.ffn_norm"
        inputs = (before, own) if layer.post_norm else (own, after)
        for name, norm in zip((f"layers.{i}.qkv", f"layers.{i}.up"), inputs, strict=True):
            if norm is not None:
                found[name] = norm
        before = after if layer.post_norm else None
    return found


@dataclass(frozen=True, eq=False)
class PreparedWeights:
    """Prepared weights: one block of memory, or of a mapped file."""

    layout: WeightLayout
    block: Bytes

    @classmethod
    def allocate(cls, layout: WeightLayout) -> "PreparedWeights":
        """Return room for prepared weights in memory, all zero."""
        return cls(layout, np.frombuffer(mmap.mmap(-1, max(layout.size, 1)), dtype=np.uint8))

    @property
    def arrays(self) -> dict[str, Bytes]:
        """The array of each part."""
        return {name: self._array(name) for name in self.layout.parts}

    def _array(self, name: str) -> Bytes:
        part = self.layout.parts[name]
        return self.block[part.offset : part.offset + part.size]

    def fill(self, chunks: Iterable[WeightChunk]) -> None:
        """Prepare a stream of weights into this block, which must be zero."""
        whole = _Matrix()
        for chunk in chunks:
            owner, _, kind = chunk.slot.rpartition(".")
            if owner not in self.layout.linears or kind not in ("weight", "bias"):
                self._place(chunk)
                continue
            packer, into = self.layout.packers[owner], self._array(owner)
            values, dtype = _values(chunk)
            if kind == "bias":
                packer.bias(values.view(np.uint8), dtype, chunk.row, into)
            elif owner not in self.layout.smoothed:
                packer.weights(values.reshape(-1).view(np.uint8), dtype, chunk.row, into)
            elif whole.add(chunk, self.layout.rows[owner]):
                self._smooth(owner, whole.parts)
                for row, part in whole.parts:
                    packer.weights(part.reshape(-1).view(np.uint8), "fp32", row, into)

    def _smooth(self, owner: str, parts: list[tuple[int, Floats]]) -> None:
        """Even out the ranges of a matrix's inputs, which come from a norm, before they get 8 bits.

        A norm's weight and bias say what range each input has, without any calibration data. The
        mean goes into the bias and half of the range, relative to that of the weights, into the
        weights (arXiv 2211.10438 with strength 1/2).
        """
        norm = self.layout.smoothed[owner]
        ranges = np.abs(self._array(f"{norm}.weight").view(np.float32))
        name = f"{norm}.bias"
        moved = name in self.layout.parts
        centre = self._array(name).view(np.float32) if moved else np.zeros_like(ranges)
        tops = np.max([np.abs(part).max(axis=0) for _, part in parts], axis=0)
        spread = np.sqrt(_floor(ranges) / _floor(tops)).astype(np.float32)
        if np.isfinite(spread).all() and np.isfinite(centre).all():
            self.layout.packers[owner].smooth(centre, spread, self._array(owner))

    def _place(self, chunk: WeightChunk) -> None:
        stored = self.layout.word_dtype if chunk.slot == "embedding.word" else "fp32"
        values, dtype = _values(chunk)
        if dtype != stored:
            if stored != "fp32":
                raise EngineError(f"`{chunk.slot}` is stored as {dtype}, most weights as {stored}")
            values = chunk.as_float32()
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        start = chunk.row * (raw.size // max(1, len(values)))
        self._array(chunk.slot)[start : start + raw.size] = raw


@dataclass
class _Matrix:
    """The chunks of one matrix, until it is whole."""

    slot: str = ""
    parts: list[tuple[int, Floats]] = field(default_factory=list)

    def add(self, chunk: WeightChunk, rows: int) -> bool:
        """Take a copy of a chunk; return whether the matrix has all its rows."""
        if chunk.slot != self.slot:
            self.slot, self.parts = chunk.slot, []
        self.parts.append((chunk.row, np.array(chunk.as_float32())))
        return sum(len(part) for _, part in self.parts) == rows


def _floor(x: Floats) -> Floats:
    """Keep values from being so small that a quotient by them means nothing."""
    result: Floats = np.maximum(x, max(float(x.max()) * 1e-4, 1e-30))
    return result


def _values(chunk: WeightChunk) -> tuple[npt.NDArray[Any], str]:
    """Return a chunk's values in a dtype that the kernels read, and its name."""
    if chunk.dtype == "F64":
        return np.ascontiguousarray(chunk.as_float32()), "fp32"
    return np.ascontiguousarray(chunk.values), DTYPES[chunk.dtype]


def _prepared(layout: WeightLayout, checkpoint: Checkpoint, folder: Path | None) -> PreparedWeights:
    if folder is not None:
        name = f"{checkpoint.fingerprint()}-{layout.precision}-{layout.isa}-{FORMAT}.weights"
        header = _header(layout)
        try:
            found = _map(folder / name, layout, header)
            return found or _write(folder / name, layout, header, checkpoint)
        except OSError as error:
            log.warning("prepared weights cannot be kept in %s: %s", folder, error)
    weights = PreparedWeights.allocate(layout)
    weights.fill(checkpoint.chunks())
    return weights


def _header(layout: WeightLayout) -> bytes:
    """Return what a file of prepared weights begins with: whole pages that describe all of it."""
    described = {
        "format": FORMAT,
        "precision": layout.precision,
        "isa": layout.isa,
        "word_dtype": layout.word_dtype,
        "linears": layout.linears,
        "smoothed": layout.smoothed,
        "parts": {name: [part.offset, part.size] for name, part in layout.parts.items()},
    }
    raw = MAGIC + json.dumps(described, sort_keys=True).encode()
    return raw.ljust(-(-len(raw) // mmap.PAGESIZE) * mmap.PAGESIZE)


def _map(path: Path, layout: WeightLayout, header: bytes) -> PreparedWeights | None:
    """Map a file of prepared weights; None when there is none, or not of this layout."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != len(header) + layout.size or file.read(len(header)) != header:
                return None
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        return None
    block = np.frombuffer(mapped, dtype=np.uint8, offset=len(header))
    return PreparedWeights(layout, block)


def _write(
    path: Path, layout: WeightLayout, header: bytes, checkpoint: Checkpoint
) -> PreparedWeights:
    """Prepare weights into a file, which appears under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".preparing-", dir=path.parent)
    try:
        with os.fdopen(handle, "r+b") as file:
            size = len(header) + layout.size
            if hasattr(os, "posix_fallocate"):
                # a full disk is an error here, and not a signal later
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            mapped = mmap.mmap(file.fileno(), size)
            block = np.frombuffer(mapped, dtype=np.uint8, offset=len(header))
            PreparedWeights(layout, block).fill(checkpoint.chunks())
            mapped[: len(header)] = header
            mapped.flush()
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    found = _map(path, layout, header)
    if found is None:
        raise OSError(f"{path} was replaced while it was written")
    return found


# --- a plan as plain dictionaries, which is what crosses into C++ ---


def _spec(plan: Plan, layout: WeightLayout) -> dict[str, Any]:
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
        "ropes": [list(rope.inverse_frequencies(head_dim)) for rope, head_dim in ropes],
        "layers": list(spec["layers"]),
        "dense": list(spec["dense"]),
        "pooling": "latent" if plan.latent else plan.pooling or "none",
    }
    if plan.score is not None:
        spec["score"]["probability"] = plan.score.vocabulary_rows is not None
    return spec
