"""Matryoshka representation learning (arXiv 2205.13147): any loss on truncated vectors."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from opengte.errors import InputError
from opengte.train.losses.pairs import GlobalBatch


def matryoshka(
    loss: Callable[[GlobalBatch], Tensor], pairs: GlobalBatch, weights: Mapping[int, float]
) -> Tensor:
    """Return the weighted sum of a loss over truncated vectors (arXiv 2205.13147).

    weights maps a number of dimensions to its weight. The vectors must be dense. Raises InputError
    for a number of dimensions that the vectors do not have.

    >>> import torch
    >>> from opengte.train.losses import TextVectors, info_nce
    >>> texts = TextVectors(torch.randn(2, 8))
    >>> none, owners = TextVectors(torch.zeros(0, 8)), torch.zeros(0, dtype=torch.int64)
    >>> batch = GlobalBatch(texts, texts, none, owners, slice(0, 2), slice(0, 0))
    >>> loss = matryoshka(lambda b: info_nce(b, temperature=0.05), batch, {8: 1.0, 4: 0.5})
    >>> loss.shape
    torch.Size([])
    """
    width = pairs.queries.values.shape[-1]
    for dimensions in weights:
        if pairs.queries.offsets is not None or not 1 <= dimensions <= width:
            raise InputError(
                f"dimensions has {dimensions}, expected 1 to {width}, the width of dense vectors"
            )
    parts = [weight * loss(pairs.truncated(d)) for d, weight in weights.items()]
    return torch.stack(parts).sum()
