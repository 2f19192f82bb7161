"""How many operations a model needs, from its plan, to say what share of a machine is used."""

import math
from collections.abc import Sequence
from dataclasses import replace

from opengte.arch.plan import Plan


def matrix_operations(plan: Plan, only: str = "layers.") -> int:
    """Return the operations a token needs in the matrices whose names start with `only`.

    Two for each weight, a multiplication and an addition. Embeddings are looked up, and norms,
    activations and the pooling are left out: they are no matrix products.
    """
    weights = (
        math.prod(slot.shape)
        for name, slot in plan.slots().items()
        if name.startswith(only) and name.endswith(".weight") and len(slot.shape) == 2
    )
    return 2 * sum(weights)


def attention_operations(plan: Plan, length: int) -> int:
    """Return the operations of the attention of one sequence in all layers.

    Scores and weighted values are two products of 2 x length x width operations a token each, where
    width is that of all query heads; a local layer sees its window only, a causal one half.
    """
    total = 0
    for layer in plan.layers:
        attention = layer.attention
        seen = length if attention.window is None else min(length, 2 * attention.window + 1)
        pairs = length * (seen + 1) // 2 if attention.causal else length * seen
        total += 4 * pairs * attention.heads * attention.head_dim
    return total


def spared(plan: Plan, length: int) -> int:
    """Return the operations of the last layer that OpenGTE's engine leaves out of one sequence.

    Where a model pools one state, all after the keys and values is computed for that state alone.
    """
    if plan.pooling not in ("cls", "last"):
        return 0
    last = f"layers.{len(plan.layers) - 1}."
    rest = matrix_operations(plan, last) - matrix_operations(plan, f"{last}qkv.")
    attention = attention_operations(replace(plan, layers=plan.layers[-1:]), length)
    return rest * (length - 1) + attention * (length - 1) // length


def operations(plan: Plan, lengths: Sequence[int]) -> int:
    """Return the operations of encoding sequences of the given lengths, without any padding.

    Of what OpenGTE's engine computes; others do the whole last layer too.
    """
    each = (attention_operations(plan, length) - spared(plan, length) for length in lengths)
    return matrix_operations(plan) * sum(lengths) + sum(each)
