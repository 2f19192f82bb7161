"""Log-sum-exp of scores, one tile at a time: the matrix of all scores never exists.

The forward pass keeps one number per row; the backward pass recomputes each tile and its gradient.
Memory is that of the inputs and one tile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from opengte.train.losses.items import Similarity, TextVectors

# (scores of a tile, its rows, its columns) -> which of them do not count (rows, columns), or None
Mask = Callable[[Tensor, slice, slice], Tensor | None]


@dataclass(frozen=True, eq=False)
class PartitionSum:
    """One sum of exponentials: rows against columns, without masked pairs."""

    rows: TextVectors
    columns: TextVectors
    mask: Mask


def logsumexp(sums: Sequence[PartitionSum], similarity: Similarity, temperature: float) -> Tensor:
    """Return for each row (n,) the logarithm of all sums of exp(score / temperature) together.

    All sums have the same number of rows. A row whose scores are all masked is -inf.
    """
    values = [side.values for term in sums for side in (term.rows, term.columns)]
    result: Tensor = _Streamed.apply(sums, similarity, temperature, *values)  # type: ignore[no-untyped-call]
    return result


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sums: Sequence[PartitionSum],
        similarity: Similarity,
        temperature: float,
        *values: Tensor,
    ) -> Tensor:
        terms = _detached(sums, values)
        total = values[0].new_full((len(terms[0].rows),), float("-inf"))
        for term in terms:
            for rows in _tiles(len(term.rows), similarity.tile[0]):
                for columns in _tiles(len(term.columns), similarity.tile[1]):
                    scores = similarity.matrix(term.rows[rows], term.columns[columns])
                    scores = _masked(scores, term.mask(scores, rows, columns)).div_(temperature)
                    total[rows] = torch.logaddexp(total[rows], scores.logsumexp(1))
        ctx.sums, ctx.similarity, ctx.temperature = sums, similarity, temperature
        ctx.save_for_backward(total, *values)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        total, *values = ctx.saved_tensors
        total = total.nan_to_num(nan=float("nan"), posinf=float("inf"), neginf=0.0)
        similarity, temperature = ctx.similarity, ctx.temperature
        gradients = [torch.zeros_like(v) for v in values]
        for place, term in enumerate(_detached(ctx.sums, values)):
            left, right = gradients[2 * place], gradients[2 * place + 1]
            for rows in _tiles(len(term.rows), similarity.tile[0]):
                for columns in _tiles(len(term.columns), similarity.tile[1]):
                    a, b = _leaf(term.rows[rows]), _leaf(term.columns[columns])
                    with torch.enable_grad():
                        scores = similarity.matrix(a, b)
                    plain = scores.detach()
                    weights = _masked(plain, term.mask(plain, rows, columns)).div_(temperature)
                    weights = weights.sub_(total[rows, None]).exp_()
                    weights.mul_(outer[0][rows, None] / temperature)
                    da, db = torch.autograd.grad(scores, (a.values, b.values), weights)
                    _part(left, term.rows, rows).add_(da)
                    _part(right, term.columns, columns).add_(db)
        return None, None, None, *gradients


def _detached(sums: Sequence[PartitionSum], values: Sequence[Tensor]) -> list[PartitionSum]:
    flat = [v.detach() for v in values]
    return [
        PartitionSum(
            term.rows.with_values(flat[2 * place]),
            term.columns.with_values(flat[2 * place + 1]),
            term.mask,
        )
        for place, term in enumerate(sums)
    ]


def _tiles(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    return scores.clone() if mask is None else scores.masked_fill(mask, float("-inf"))


def _leaf(items: TextVectors) -> TextVectors:
    return items.with_values(items.values.detach().requires_grad_())


def _part(gradient: Tensor, items: TextVectors, span: slice) -> Tensor:
    if items.offsets is None:
        return gradient[span]
    return gradient[int(items.offsets[span.start]) : int(items.offsets[span.stop])]
