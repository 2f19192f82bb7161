"""Matryoshka representation learning (arXiv 2205.13147): any loss, on leading parts of vectors."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from opengte.errors import InputError
from opengte.train.losses.pairs import GlobalBatch


def matryoshka(
    loss: Callable[[GlobalBatch], Tensor], pairs: GlobalBatch, weights: Mapping[int, float]
) -> Tensor:
    """Return the weighted sum of a loss over the dimensions that weights names.

    The vectors must be dense. Raises InputError for a dimension that the vectors do not have.
    """
    width = pairs.queries.values.shape[-1]
    for dimensions in weights:
        if pairs.queries.offsets is not None or not 1 <= dimensions <= width:
            raise InputError(
                f"dimensions has {dimensions}, expected 1 to {width}, the width of dense vectors"
            )
    parts = [weight * loss(pairs.truncated(d)) for d, weight in weights.items()]
    return torch.stack(parts).sum()
