"""Each mechanism as one function of tensors: norms, rotary positions, packed attention, pooling.

Letters in shapes: N sequences, T tokens of all sequences together, H query heads, K key-value
heads, D head dimension, C width, L length of one sequence, V vocabulary.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from opengte.arch.plan import (
    Activation,
    Attention,
    BucketBias,
    LinearBias,
    LogN,
    Norm,
    PoolingKind,
    Rope,
)
from opengte.types import Ints, PackedBatch

QUERY_BLOCK = 512  # queries that local attention computes at once
VARLEN_OPTIONS = inspect.signature(varlen_attn).parameters


@dataclass(frozen=True)
class EqualLengthRun:
    """Consecutive sequences of equal length, of which equally many tokens are attended to."""

    start: int
    count: int
    length: int
    attended: int


@dataclass(frozen=True, eq=False)
class PackedTensors:
    """A packed batch on a device.

    ids, type_ids, positions and owners (the sequence of each token) are (T,) int64, cu_seqlens is
    (N + 1,) int32, lengths and pool_from are (N,) int64. runs cover all tokens, in order.
    """

    ids: Tensor
    type_ids: Tensor
    positions: Tensor
    owners: Tensor
    cu_seqlens: Tensor
    lengths: Tensor
    pool_from: Tensor
    runs: tuple[EqualLengthRun, ...]
    longest: int


def to_device(batch: PackedBatch, device: torch.device) -> PackedTensors:
    """Move a batch to a device and derive the layout of its sequences."""
    cu_seqlens = _moved(batch.cu_seqlens, device)
    lengths = cu_seqlens.diff().long()
    owners = torch.repeat_interleave(torch.arange(len(batch), device=device), lengths)
    tokens = torch.arange(len(batch.ids), device=device)
    return PackedTensors(
        ids=_moved(batch.ids, device).long(),
        type_ids=_moved(batch.type_ids, device).long(),
        positions=tokens - cu_seqlens.long()[owners],
        owners=owners,
        cu_seqlens=cu_seqlens,
        lengths=lengths,
        pool_from=_moved(batch.pool_from, device).long(),
        runs=_runs(batch),
        longest=int(batch.lengths.max(initial=0)),
    )


def position_rows(packed: PackedTensors, offset: int) -> Tensor:
    """Return the rows of the tokens in the table of positions, whose first position is offset.

    Rows before it are kept for padding, as in XLM-R: a padding token in a text has the last of them
    and is not counted.
    """
    if offset == 0:
        return packed.positions
    pads = packed.ids == offset - 1
    before = pads.cumsum(0) - pads.long()
    before = before - before[packed.cu_seqlens.long()[packed.owners]]
    return torch.where(pads, offset - 1, packed.positions + offset - before)


def _moved(values: Ints, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)  # copies: the array may be read-only


def _runs(batch: PackedBatch) -> tuple[EqualLengthRun, ...]:
    runs: list[EqualLengthRun] = []
    attended = batch.lengths if batch.attended is None else batch.attended
    rows = zip(batch.cu_seqlens.tolist(), batch.lengths.tolist(), attended.tolist(), strict=False)
    for start, length, keys in rows:
        if runs and (runs[-1].length, runs[-1].attended) == (length, keys):
            runs[-1] = EqualLengthRun(runs[-1].start, runs[-1].count + 1, length, keys)
        else:
            runs.append(EqualLengthRun(start, 1, length, keys))
    return tuple(runs)


_in_place: ContextVar[bool] = ContextVar("_in_place", default=False)


@contextmanager
def accumulate_lookups_in_place() -> Iterator[None]:
    """Make embedding lookups add to the gradient of their table in place; its hooks do not run.

    Otherwise each lookup allocates a gradient as large as the table, which costs more than the
    lookups themselves when there are many small batches.
    """
    token = _in_place.set(True)
    try:
        yield
    finally:
        _in_place.reset(token)


def embedding_lookup(ids: Tensor, table: Tensor) -> Tensor:
    """Return the rows (T, C) of a table (V, C)."""
    if _in_place.get() and table.requires_grad and torch.is_grad_enabled():
        rows: Tensor = _LookUp.apply(ids, table)  # type: ignore[no-untyped-call]
        return rows
    return F.embedding(ids, table)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor) -> Tensor:
        ctx.ids, ctx.table = ids, table
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[None, None]:
        table = ctx.table
        if table.grad is None:
            table.grad = torch.zeros_like(table)
        table.grad.index_add_(0, ctx.ids, outer[0].to(table.dtype))
        return None, None


def activate(x: Tensor, kind: Activation) -> Tensor:
    """Apply an activation; `gelu` is the exact form (erf)."""
    return _ACTIVATIONS[kind](x)


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


def apply_norm(x: Tensor, norm: Norm, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply LayerNorm or RMSNorm over the last axis."""
    if norm.kind == "rms":
        return F.rms_norm(x, (x.shape[-1],), weight, norm.eps)
    return F.layer_norm(x, (x.shape[-1],), weight, bias, norm.eps)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums and angles for values of a dtype: float64 or float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rotary_table(
    rope: Rope, head_dim: int, positions: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (T, 1, D) of the angles at each position, float32 or float64."""
    frequencies = rope.inverse_frequencies(head_dim)
    angles = positions.to(dtype)[:, None] * positions.new_tensor(frequencies, dtype=dtype)
    angles = torch.cat((angles, angles), dim=-1)[:, None, :]
    return angles.cos() * rope.magnitude, angles.sin() * rope.magnitude


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the halves of each head of x (T, H, D) by the angles of the table."""
    cos, sin = table[0].to(x.dtype), table[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def scale_queries(q: Tensor, logn: LogN, packed: PackedTensors) -> Tensor:
    """Scale queries (T, H, D) by log(length of the sequence) / log(trained length)."""
    scale = packed.lengths.to(accumulation_dtype(q.dtype)).log() / math.log(logn.trained_length)
    if logn.at_least_one:
        scale = scale.clamp(min=1.0)
    return q * scale[packed.owners][:, None, None].to(q.dtype)


def bias_table(
    bias: BucketBias | LinearBias, learned: Tensor | None, heads: int, longest: int, like: Tensor
) -> Tensor:
    """Return what is added to scores (H, 2 L - 1), for keys from L - 1 before the query to after.

    learned (buckets, H) are the numbers of a BucketBias.
    """
    distances = range(1 - longest, longest)
    if isinstance(bias, BucketBias):
        assert learned is not None
        rows = torch.tensor([bias.bucket(d) for d in distances], device=like.device)
        return learned[rows].T
    slopes = like.new_tensor(bias.slopes(heads), dtype=accumulation_dtype(like.dtype))
    away = slopes.new_tensor([-abs(d) for d in distances])
    return (slopes[:, None] * away).to(like.dtype)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packed: PackedTensors,
    attention: Attention,
    bias: Tensor | None = None,
) -> Tensor:
    """Attend within each sequence: q (T, H, D), k and v (T, K, D) -> (T, H, D).

    bias is a `bias_table` of the longest sequence. Memory grows with T, not with the square of a
    length.
    """
    if attention.scale is not None:
        q = q * (attention.scale * math.sqrt(attention.head_dim))
    whole = all(run.attended == run.length for run in packed.runs)
    if whole and has_varlen(q) and bias is None:
        return _attend_varlen(q, k, v, packed, attention)
    attended: Tensor = _attend_runs(q, k, v, packed, attention, bias)
    return attended


def has_varlen(q: Tensor) -> bool:
    """Return whether PyTorch's variable-length attention can compute these queries."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    shaped = q.shape[-1] <= 256 and q.shape[-1] % 8 == 0
    return q.is_cuda and half and shaped and "window_size" in VARLEN_OPTIONS


def _attend_varlen(
    q: Tensor, k: Tensor, v: Tensor, packed: PackedTensors, attention: Attention
) -> Tensor:
    reach = -1 if attention.window is None else attention.window
    options: dict[str, Any] = {"window_size": (reach, 0 if attention.causal else reach)}
    if "num_splits" in VARLEN_OPTIONS:
        options["num_splits"] = 1  # sums that do not depend on the batch
    group = attention.heads // attention.kv_heads
    if group > 1 and "enable_gqa" in VARLEN_OPTIONS:
        options["enable_gqa"] = True
    elif group > 1:
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    bounds, longest = packed.cu_seqlens, packed.longest
    result = varlen_attn(q, k, v, bounds, bounds, longest, longest, **options)
    assert isinstance(result, Tensor)
    return result


# runs differ from batch to batch: torch.compile would specialise the code for each batch
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_runs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packed: PackedTensors,
    attention: Attention,
    bias: Tensor | None,
) -> Tensor:
    # split instead of slices: the gradient of a slice is as large as the whole tensor
    sizes = [run.count * run.length for run in packed.runs]
    parts = []
    for run, *pieces in zip(packed.runs, *(torch.split(x, sizes) for x in (q, k, v)), strict=True):
        shape = (run.count, run.length, -1, q.shape[-1])
        queries, keys, values = (piece.view(shape) for piece in pieces)
        keys, values = keys[:, : run.attended], values[:, : run.attended]
        parts.append(_attend_run(queries, keys, values, attention, bias))
    return torch.cat(parts) if parts else torch.empty_like(q)


def _attend_run(
    q: Tensor, k: Tensor, v: Tensor, attention: Attention, bias: Tensor | None
) -> Tensor:
    """Attend within sequences of equal length: q (N, L, H, D) -> (N * L, H, D)."""
    length, group = q.shape[1], attention.heads // attention.kv_heads
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if group > 1:
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    whole = attention.window is None or attention.window >= length - 1
    if whole and bias is None:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=attention.causal and length > 1)
    else:
        window = length if attention.window is None else attention.window
        out = _attend_window(q, k, v, window, attention.causal, bias)
    return out.transpose(1, 2).flatten(0, 1)


def _attend_window(
    q: Tensor, k: Tensor, v: Tensor, window: int, causal: bool, bias: Tensor | None
) -> Tensor:
    """Attend to keys at most `window` tokens away, a block of queries at a time: (N, H, L, D)."""
    length, attended = q.shape[2], k.shape[2]
    parts = []
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        first = max(0, start - window)
        last = min(attended, stop if causal else stop + window)
        rows = torch.arange(start, stop, device=q.device)[:, None]
        columns = torch.arange(first, last, device=q.device)
        seen = (rows - columns).abs() <= window
        if causal:
            seen &= columns <= rows
        if bias is not None:
            middle = bias.shape[1] // 2  # of distance 0
            added = bias[:, columns - rows + middle].to(q.dtype)
            seen = added.masked_fill(~seen, float("-inf"))
        keys, values = k[:, :, first:last], v[:, :, first:last]
        parts.append(F.scaled_dot_product_attention(q[:, :, start:stop], keys, values, seen))
    return torch.cat(parts, dim=2)


def attend_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packed: PackedTensors,
    attention: Attention,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute what `attend` computes, with one full score matrix at a time: the oracle of tests."""
    group = attention.heads // attention.kv_heads
    scale = attention.scale or q.shape[-1] ** -0.5
    result = torch.empty_like(q)
    bounds = packed.cu_seqlens.tolist()
    runs = {
        run.start + i * run.length: run.attended for run in packed.runs for i in range(run.count)
    }
    for start, stop in zip(bounds, bounds[1:], strict=False):
        offsets = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        seen = torch.ones_like(offsets, dtype=torch.bool)
        seen[:, runs[start] :] = False
        if attention.causal:
            seen &= offsets >= 0
        if attention.window is not None:
            seen &= offsets.abs() <= attention.window
        for head in range(attention.heads):
            keys = k[start:stop, head // group]
            scores = q[start:stop, head] @ keys.T * scale
            if bias is not None:
                scores = scores + bias[head, bias.shape[1] // 2 - offsets]
            weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
            result[start:stop, head] = weights @ v[start:stop, head // group]
    return result


def pool(states: Tensor, packed: PackedTensors, kind: PoolingKind) -> Tensor:
    """Pool token states (T, C) to one vector a sequence (N, C); of an empty sequence, zeros."""
    if kind == "cls":
        return states[packed.cu_seqlens[:-1].long() + packed.pool_from]
    if kind == "last":
        return states[packed.cu_seqlens[1:].long() - 1]
    kept = packed.positions >= packed.pool_from[packed.owners]
    wide = states.to(accumulation_dtype(states.dtype))
    total = wide.new_zeros(len(packed.lengths), states.shape[1])
    if kind == "max":
        owners = packed.owners[:, None].expand_as(wide)[kept]
        largest = total.scatter_reduce(0, owners, wide[kept], "amax", include_self=False)
        return largest.to(states.dtype)
    weights = kept * (packed.positions + 1) if kind == "weighted" else kept.long()
    sums = packed.lengths.new_zeros(len(packed.lengths)).index_add(0, packed.owners, weights)
    total = total.index_add(0, packed.owners, wide * weights[:, None])
    divisor = sums.clamp(min=1).to(total.dtype)
    if kind == "mean_sqrt":
        divisor = divisor.sqrt()
    return (total / divisor[:, None]).to(states.dtype)
