"""What losses compare: texts as dense vectors, sparse weights or token vectors, and their scores.

Letters in shapes: n texts, t tokens of all of them, d width of a vector.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TextVectors:
    """The vectors of n texts.

    Dense: values (n, d) float. Token vectors: values (t, d) with offsets (n + 1,) int64, where each
    text starts. Sparse: values (t,) weights with offsets and ids (t,) int64, the token ids.
    """

    values: Tensor
    offsets: Tensor | None = None
    ids: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def __getitem__(self, span: slice) -> "TextVectors":
        """Return consecutive texts."""
        start, stop, _ = span.indices(len(self))
        if self.offsets is None:
            return TextVectors(self.values[start:stop])
        bounds = self.offsets[start : stop + 1]
        tokens = slice(int(bounds[0]), int(bounds[-1]))
        ids = None if self.ids is None else self.ids[tokens]
        return TextVectors(self.values[tokens], bounds - bounds[0], ids)

    def select(self, texts: Tensor) -> "TextVectors":
        """Return the given texts (k,) int64, in the given order."""
        if self.offsets is None:
            return TextVectors(self.values[texts])
        lengths = self.lengths[texts]
        offsets = offsets_from_lengths(lengths)
        tokens = torch.repeat_interleave(self.offsets[texts] - offsets[:-1], lengths)
        tokens = tokens + torch.arange(len(tokens), device=tokens.device)
        return TextVectors(
            self.values[tokens], offsets, None if self.ids is None else self.ids[tokens]
        )

    def with_values(self, values: Tensor) -> "TextVectors":
        """Return the same texts with other values."""
        return replace(self, values=values)

    @property
    def lengths(self) -> Tensor:
        """Return the tokens of each text (n,)."""
        assert self.offsets is not None
        return self.offsets.diff()

    @property
    def owners(self) -> Tensor:
        """Return the text that each token belongs to, (t,)."""
        places = torch.arange(len(self), device=self.values.device)
        return torch.repeat_interleave(places, self.lengths)


def offsets_from_lengths(lengths: Tensor) -> Tensor:
    """Return the offsets (n + 1,) of texts with the given lengths (n,)."""
    return F.pad(lengths.cumsum(0), (1, 0))


def concatenate_vectors(*parts: TextVectors) -> TextVectors:
    """Return the texts of all parts, in order."""
    values = torch.cat([part.values for part in parts])
    if parts[0].offsets is None:
        return TextVectors(values)
    offsets = offsets_from_lengths(torch.cat([part.lengths for part in parts]))
    ids = [part.ids for part in parts if part.ids is not None]
    return TextVectors(values, offsets, torch.cat(ids) if ids else None)


@dataclass(frozen=True)
class Similarity:
    """How two texts are compared.

    prepare transforms the values of texts once, before any scoring; matrix scores all texts of one
    side against all of the other, (n, m); paired scores texts at the same position, (n,). tile is
    the largest block of rows and columns that is scored at once. A similarity that is not symmetric
    scores queries against documents only.

    `COSINE` is for dense vectors; `SPARSE` is the dot product over shared token ids; `LATE` is late
    interaction (ColBERT, arXiv 2004.12832), averaged over query tokens.
    """

    prepare: Callable[[TextVectors], TextVectors]
    matrix: Callable[[TextVectors, TextVectors], Tensor]
    paired: Callable[[TextVectors, TextVectors], Tensor]
    tile: tuple[int, int]
    symmetric: bool = True


def _unit(items: TextVectors) -> TextVectors:
    return items.with_values(F.normalize(items.values, dim=-1))


def _dot_matrix(a: TextVectors, b: TextVectors) -> Tensor:
    return a.values @ b.values.T


def _dot_paired(a: TextVectors, b: TextVectors) -> Tensor:
    return (a.values * b.values).sum(-1)


def _sparse_matrix(a: TextVectors, b: TextVectors) -> Tensor:
    """Score by shared token ids; of an id that occurs twice in a text the larger weight counts."""
    assert a.ids is not None and b.ids is not None
    if not len(a.ids) or not len(b.ids):
        return (a.values.sum() + b.values.sum()) * a.values.new_zeros(len(a), len(b))
    known, columns = torch.unique(a.ids, return_inverse=True)
    left = _largest(a, columns, len(known))
    places = torch.searchsorted(known, b.ids).clamp(max=len(known) - 1)
    places = torch.where(known[places] == b.ids, places, len(known))
    return left @ _largest(b, places, len(known) + 1)[:, : len(known)].T


def _largest(items: TextVectors, columns: Tensor, width: int) -> Tensor:
    cells = items.owners * width + columns
    table = items.values.new_zeros(len(items) * width)
    return table.scatter_reduce(0, cells, items.values, "amax").view(len(items), width)


def _sparse_paired(a: TextVectors, b: TextVectors) -> Tensor:
    """Score by the common ids: both sides sorted by (text, id), then matched."""
    (keys, left), (others, right) = _by_text_and_id(a), _by_text_and_id(b)
    scores = a.values.new_zeros(len(a))
    if not len(keys) or not len(others):
        return scores + (a.values.sum() + b.values.sum()) * 0
    places = torch.searchsorted(others, keys).clamp(max=len(others) - 1)
    shared = others[places] == keys
    products = left[shared] * right[places[shared]]
    return scores.index_add(0, keys[shared] // _ID_LIMIT, products)


_ID_LIMIT = 1 << 32


def _by_text_and_id(items: TextVectors) -> tuple[Tensor, Tensor]:
    assert items.ids is not None
    keys, places = torch.unique(items.owners * _ID_LIMIT + items.ids, return_inverse=True)
    return keys, items.values.new_zeros(len(keys)).scatter_reduce(0, places, items.values, "amax")


def _late_matrix(a: TextVectors, b: TextVectors) -> Tensor:
    """For each token of `a` its best match in `b`, averaged over the tokens of `a`."""
    scores = a.values @ b.values.T
    owners = b.owners.expand(len(scores), -1)
    best = scores.new_full((len(scores), len(b)), float("-inf"))
    best = best.scatter_reduce(1, owners, scores, "amax")
    total = best.new_zeros(len(a), len(b)).index_add(0, a.owners, best)
    return total / a.lengths[:, None].clamp(min=1)


def _late_paired(a: TextVectors, b: TextVectors) -> Tensor:
    rows = [_late_matrix(a[i : i + 1], b[i : i + 1])[0] for i in range(len(a))]
    return torch.cat(rows) if rows else a.values.new_zeros(0)


COSINE = Similarity(_unit, _dot_matrix, _dot_paired, (1024, 2048))
SPARSE = Similarity(lambda items: items, _sparse_matrix, _sparse_paired, (256, 1024))
LATE = Similarity(_unit, _late_matrix, _late_paired, (32, 64), symmetric=False)
