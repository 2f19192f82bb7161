"""Weights prepared for the compiled engine: packed, quantised, cached in a file and mapped.

Weights are packed for the CPU, quantised where the precision asks for it, and written to a file in
the cache. Later loads only map that file, so that several processes share its pages.
"""

import json
import logging
import math
import mmap
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from opengte.arch.plan import Plan
from opengte.checkpoint import Checkpoint
from opengte.engine import prepared_cache
from opengte.engine.native_extension import load_extension
from opengte.errors import EngineError
from opengte.types import Floats
from opengte.weights import WeightChunk

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]
Precision = Literal["fp32", "bf16", "int8"]

FORMAT = 5  # of prepared weights: raise it when their layout changes
MAGIC = b"opengte prepared weights\n"
ALIGNMENT = 64
DTYPES = {"F32": "fp32", "F64": "fp32", "F16": "fp16", "BF16": "bf16"}
HEADS = ("dense.", "sparse", "tokens", "score.", "latent.kv")  # small or used once: always fp32


@dataclass(frozen=True)
class ArraySpan:
    """The place of one prepared array in the block: offset and size in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class WeightLayout:
    """How a plan's weights are prepared: the precision of each matrix, the place of each array.

    A matrix is named by its slot without `.weight`. linears maps each matrix to its precision,
    packers to its packer and rows to its number of outputs. smoothed maps each matrix whose inputs
    are smoothed to the norm that produces these inputs. parts maps every matrix (weights, scales
    and bias in one array) and every other slot to its place. size is that of the block, in bytes.
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
        """Compute the layout of a plan's weights."""
        word_dtype = stored_dtype if stored_dtype in ("fp16", "bf16") else "fp32"
        linears: dict[str, Precision] = {}
        packers: dict[str, Any] = {}
        sizes: dict[str, int] = {}
        packer = load_extension().Packer
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
    """Return the precision of one matrix; heads are small, so that they stay in fp32."""
    return "fp32" if matrix.startswith(HEADS) else precision


def _norms(plan: Plan) -> dict[str, str]:
    """Map each matrix whose only input is the output of a norm to the slot of that norm."""
    found: dict[str, str] = {}
    before = "embedding.norm" if plan.embedding.norm else None
    if plan.embedding.projected is not None:
        if before is not None:
            found["embedding.projection"] = before
        before = None
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
    """Prepared weights: one block, in memory or in a mapped file."""

    layout: WeightLayout
    block: Bytes

    @classmethod
    def allocate(cls, layout: WeightLayout) -> "PreparedWeights":
        """Allocate a zeroed block in memory."""
        return cls(layout, np.frombuffer(mmap.mmap(-1, max(layout.size, 1)), dtype=np.uint8))

    @property
    def arrays(self) -> dict[str, Bytes]:
        """The bytes of each array, by name."""
        return {name: self._array(name) for name in self.layout.parts}

    def _array(self, name: str) -> Bytes:
        part = self.layout.parts[name]
        return self.block[part.offset : part.offset + part.size]

    def fill(self, chunks: Iterable[WeightChunk]) -> None:
        """Write a stream of weights into this block, which must be zeroed."""
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
        """Even out the ranges of a matrix's inputs before these are quantised to 8 bits.

        The inputs come from a norm, whose weight and bias give the range of each input without any
        calibration data. The mean moves into the bias. Half of the range, relative to the range of
        the weights, moves into the weights (SmoothQuant, arXiv 2211.10438, with strength 1/2).
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
    """Collects the chunks of one matrix until all its rows are there."""

    slot: str = ""
    parts: list[tuple[int, Floats]] = field(default_factory=list)

    def add(self, chunk: WeightChunk, rows: int) -> bool:
        """Add a copy of a chunk; return whether the matrix is complete."""
        if chunk.slot != self.slot:
            self.slot, self.parts = chunk.slot, []
        self.parts.append((chunk.row, np.array(chunk.as_float32())))
        return sum(len(part) for _, part in self.parts) == rows


def _floor(x: Floats) -> Floats:
    """Raise tiny values, so that dividing by them is meaningful."""
    result: Floats = np.maximum(x, max(float(x.max()) * 1e-4, 1e-30))
    return result


def _values(chunk: WeightChunk) -> tuple[npt.NDArray[Any], str]:
    """Return a chunk's values in a dtype that the kernels read, and the name of that dtype."""
    if chunk.dtype == "F64":
        return np.ascontiguousarray(chunk.as_float32()), "fp32"
    return np.ascontiguousarray(chunk.values), DTYPES[chunk.dtype]


def prepare_weights(
    layout: WeightLayout, checkpoint: Checkpoint, folder: Path | None
) -> PreparedWeights:
    """Return a checkpoint's prepared weights, from the file in folder where there is one.

    Without a folder, or where it cannot be written, they are prepared in memory.
    """
    if folder is not None:
        name = f"{checkpoint.weights_digest[:32]}-{layout.precision}-{layout.isa}-{FORMAT}.weights"
        header = _header(layout)
        try:
            found = _map(folder / name, layout, header)
            if found is None:
                found = _write(folder / name, layout, header, checkpoint)
                prepared_cache.make_room(folder, folder / name, FORMAT)
            return found
        except OSError as error:
            log.warning("prepared weights cannot be kept in %s: %s", folder, error)
    weights = PreparedWeights.allocate(layout)
    weights.fill(checkpoint.chunks())
    return weights


def _header(layout: WeightLayout) -> bytes:
    """Return the header of a file of prepared weights: whole pages that describe its contents."""
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
    """Map a file of prepared weights; None if it does not exist or has another layout."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            expected = len(header) + layout.size + prepared_cache.TRAILER
            if size != expected or file.read(len(header)) != header:
                return None
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        return None
    prepared_cache.mark_used(path)
    block = np.frombuffer(mapped, dtype=np.uint8, count=layout.size, offset=len(header))
    return PreparedWeights(layout, block)


def _write(
    path: Path, layout: WeightLayout, header: bytes, checkpoint: Checkpoint
) -> PreparedWeights:
    """Write prepared weights to a temporary file, move it to its path when complete, and map it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".preparing-", dir=path.parent)
    try:
        with os.fdopen(handle, "r+b") as file:
            size = len(header) + layout.size + prepared_cache.TRAILER
            if hasattr(os, "posix_fallocate"):
                # fail here on a full disk, rather than with SIGBUS at a later write
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            mapped = mmap.mmap(file.fileno(), size)
            block = np.frombuffer(mapped, np.uint8, count=layout.size, offset=len(header))
            PreparedWeights(layout, block).fill(checkpoint.chunks())
            mapped[: len(header)] = header
            mapped[-prepared_cache.TRAILER :] = prepared_cache.trailer(mapped, checkpoint.name)
            mapped.flush()
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    found = _map(path, layout, header)
    if found is None:
        raise OSError(f"{path} was replaced while it was written")
    return found
