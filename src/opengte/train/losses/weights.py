"""Learned sparse weights: their activation, and the regulariser that keeps texts sparse."""

import torch
from torch import Tensor

from opengte.train.losses.items import TextVectors


def log_saturated(weights: Tensor) -> Tensor:
    """Return log(1 + weight) of non-negative weights of any shape (SPLADE, arXiv 2107.05720).

    >>> import torch
    >>> log_saturated(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.6931])
    """
    return weights.log1p()


def flops_regulariser(items: TextVectors, rows: slice) -> Tensor:
    """Return the FLOPS regulariser (arXiv 2004.05665): sum over ids of the squared mean weight.

    items are the sparse weights of the global batch; the result is the share of the texts in rows.

    >>> import torch
    >>> offsets, ids = torch.tensor([0, 1, 2]), torch.tensor([7, 7])
    >>> weights = TextVectors(torch.tensor([1.0, 3.0]), offsets, ids)
    >>> float(flops_regulariser(weights, slice(0, 2)))  # the mean weight of id 7 is 2
    4.0
    """
    assert items.ids is not None and items.offsets is not None
    if not len(items.ids):
        return items.values.sum()
    keys, places = torch.unique(items.owners * _ID_LIMIT + items.ids, return_inverse=True)
    largest = items.values.new_zeros(len(keys)).scatter_reduce(0, places, items.values, "amax")
    ids, columns = torch.unique(keys % _ID_LIMIT, return_inverse=True)
    means = largest.new_zeros(len(ids)).index_add(0, columns, largest) / len(items)
    texts = torch.div(keys, _ID_LIMIT, rounding_mode="floor")
    mine = (texts >= rows.start) & (texts < rows.stop)
    return (largest[mine] * means[columns[mine]]).sum() / len(items)


_ID_LIMIT = 1 << 32
