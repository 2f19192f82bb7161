"""Cross-entropy of masked language modelling, a block of positions at a time."""

from typing import Any

import torch
from torch import Tensor

BLOCK = 1 << 26  # values of the logits that exist at once


def masked_cross_entropy(
    states: Tensor, table: Tensor, bias: Tensor | None, targets: Tensor
) -> Tensor:
    """Return the summed cross-entropy of masked positions over the vocabulary, a scalar.

    states (m, d) are the head's outputs at the masked positions, table (V, d) the output embedding,
    bias (V,) its bias or None, targets (m,) int64 the original token ids. The logits (m, V) never
    exist as a whole: the forward pass turns each block of them into its part of the gradients.

    >>> import torch
    >>> states, table = torch.zeros(2, 4), torch.randn(8, 4)
    >>> loss = masked_cross_entropy(states, table, None, torch.tensor([1, 5]))
    >>> round(float(loss), 4)  # uniform over 8 tokens: 2 log(8)
    4.1589
    """
    if bias is None:
        bias = table.new_zeros(len(table))
    result: Tensor = _CrossEntropy.apply(states, table, bias, targets)  # type: ignore[no-untyped-call]
    return result


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        wide = torch.float64 if states.dtype == torch.float64 else torch.float32
        loss = states.new_zeros((), dtype=wide)
        needed = any(ctx.needs_input_grad[:3])
        d_states = torch.empty_like(states)
        d_table = torch.zeros_like(table, dtype=wide) if needed else None
        d_bias = torch.zeros_like(bias, dtype=wide) if needed else None
        rows = max(1, BLOCK // len(table))
        columns = table.to(states.dtype)
        for start in range(0, len(states), rows):
            block, wanted = states[start : start + rows], targets[start : start + rows, None]
            logits = (block @ columns.T).to(wide).add_(bias)
            logits -= logits.logsumexp(1, keepdim=True)
            loss -= logits.gather(1, wanted).sum()
            if d_table is None or d_bias is None:
                continue
            weights = logits.exp_().scatter_add_(1, wanted, -torch.ones_like(wanted, dtype=wide))
            d_bias += weights.sum(0)
            weights = weights.to(states.dtype)
            d_states[start : start + rows] = weights @ columns
            d_table += weights.T @ block
        if needed:
            ctx.save_for_backward(d_states, d_table, d_bias)
            ctx.dtypes = states.dtype, table.dtype, bias.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        parts = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *((part * outer[0]).to(dtype) for part, dtype in parts), None
