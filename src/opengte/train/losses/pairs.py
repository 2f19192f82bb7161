"""The texts of a global batch as the losses see them, and the masks of its false negatives."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from opengte.train.losses.items import COSINE, Similarity, TextVectors
from opengte.train.losses.streamed import Mask


@dataclass(frozen=True, eq=False)
class TextKeys:
    """Numbers that identify the texts of the global batch: equal exactly where texts are equal.

    All int64. queries, positives (n,); negatives (m,); known (n, k): all further positives of each
    row's query, padded with any key of the row.
    """

    queries: Tensor
    positives: Tensor
    negatives: Tensor
    known: Tensor


@dataclass(frozen=True, eq=False)
class GlobalBatch:
    """A global batch: n queries with one positive each, and m negatives, any number for a row.

    owners (m,) int64 is the row of each negative, ascending. A loss is computed for `rows`, and for
    the negatives `own` of those rows: the part of this process. The sum over all processes is the
    mean over the n rows, so gradients are summed, never averaged. Without keys no false negatives
    are recognised by text. teacher (r + m',) holds another model's scores of this process's
    positives, then negatives.

    >>> import torch
    >>> texts, none = TextVectors(torch.randn(3, 8)), TextVectors(torch.zeros(0, 8))
    >>> owners = torch.zeros(0, dtype=torch.int64)
    >>> len(GlobalBatch(texts, texts, none, owners, rows=slice(0, 3), own=slice(0, 0)))
    3
    """

    queries: TextVectors
    positives: TextVectors
    negatives: TextVectors
    owners: Tensor
    rows: slice
    own: slice
    keys: TextKeys | None = None
    similarity: Similarity = COSINE
    teacher: Tensor | None = None  # (n + m,) scores of positives, then negatives, by another model

    def __len__(self) -> int:
        """Return the number of rows of the global batch."""
        return len(self.queries)

    def prepared(self) -> "GlobalBatch":
        """Return the batch with vectors prepared for scoring (unit length for cosines)."""
        prepare = self.similarity.prepare
        return replace(
            self,
            queries=prepare(self.queries),
            positives=prepare(self.positives),
            negatives=prepare(self.negatives),
        )

    def truncated(self, dimensions: int) -> "GlobalBatch":
        """Return the batch with only the first dimensions of each dense vector (Matryoshka)."""
        cut = [
            items.with_values(items.values[:, :dimensions])
            for items in (self.queries, self.positives, self.negatives)
        ]
        return replace(self, queries=cut[0], positives=cut[1], negatives=cut[2])

    def own_scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores of this process's positives and of its negatives, and each negative's row.

        Call it on a prepared batch. Rows are counted from the first row of this process.
        """
        queries = self.queries[self.rows]
        owners = self.owners[self.own] - self.rows.start
        paired = self.similarity.paired
        positive = paired(queries, self.positives[self.rows])
        return positive, paired(queries.select(owners), self.negatives[self.own]), owners


def number_texts(hashes: Tensor) -> Tensor:
    """Return a number for each hash (t, w) int64 of a text, (t,); equal hashes share it.

    >>> import torch
    >>> number_texts(torch.tensor([[5, 5], [1, 2], [5, 5]]))
    tensor([1, 0, 1])
    """
    numbers: Tensor = torch.unique(hashes, dim=0, return_inverse=True)[1]
    return numbers


@dataclass(frozen=True, eq=False)
class FalseNegativeMasks:
    """Masks of false negatives: texts of other rows that may answer a row's query.

    A text is a known false negative if it is the row's query or one of its positives, or if its own
    pair shares a text with the row. It is a likely false negative if it scores above `limit` (n,),
    the score of the row's positive plus a margin.
    """

    pairs: GlobalBatch
    limit: Tensor | None

    def queries(self, *, likely: bool = True) -> Mask:
        """Return the mask for queries as columns; the row's own query is masked."""
        return self._mask(self._query_keys(), self._places(), likely, keep=False)

    def queries_and_own(self, *, likely: bool = True) -> Mask:
        """Return the mask for queries as columns; the row's own query counts."""
        return self._mask(self._query_keys(), self._places(), likely, keep=True)

    def documents(self) -> Mask:
        """Return the mask for documents as columns; the row's own positive counts."""
        return self._mask(self._document_keys(), self._document_owners(), True, keep=True)

    def others_documents(self, *, likely: bool) -> Mask:
        """Return the mask for documents as columns; all of the row's own are masked."""
        return self._mask(self._document_keys(), self._document_owners(), likely, keep=False)

    def _places(self) -> Tensor:
        return torch.arange(len(self.pairs), device=self.pairs.owners.device)

    def _document_owners(self) -> Tensor:
        return torch.cat((self._places(), self.pairs.owners))

    def _query_keys(self) -> Tensor | None:
        keys = self.pairs.keys
        return None if keys is None else torch.stack((keys.queries, keys.positives), dim=1)

    def _document_keys(self) -> Tensor | None:
        keys = self.pairs.keys
        if keys is None:
            return None
        positives = torch.stack((keys.positives, keys.queries), dim=1)
        return torch.cat((positives, keys.negatives[:, None].expand(-1, 2)))

    @cached_property
    def _row_keys(self) -> Tensor | None:
        keys = self.pairs.keys
        if keys is None or not _shared(keys):
            return None
        rows = torch.stack((keys.queries, keys.positives), dim=1)
        return torch.cat((rows, keys.known), dim=1)[self.pairs.rows]

    def _mask(self, columns: Tensor | None, owners: Tensor, likely: bool, *, keep: bool) -> Mask:
        first, count = self.pairs.rows.start, len(self.pairs)
        row_keys = self._row_keys
        limit = self.limit if likely else None

        def mask(scores: Tensor, rows: slice, span: slice) -> Tensor | None:
            places = torch.arange(rows.start + first, rows.stop + first, device=owners.device)
            own = owners[None, span] == places[:, None]
            masked: Tensor | None = None
            if row_keys is not None and columns is not None:
                masked = _any_equal(row_keys[rows], columns[span])
            if limit is not None:
                above = scores > limit[rows, None]
                masked = above if masked is None else masked.logical_or_(above)
            if not keep:
                return own if masked is None else masked.logical_or_(own)
            if masked is None:
                return None
            own[:, max(0, count - span.start) :] = False  # own negatives may be masked
            return masked.logical_and_(own.logical_not_())

        return mask


def _shared(keys: TextKeys) -> bool:
    """Return whether any text occurs twice, so that there may be false negatives to mask."""
    texts = torch.cat((keys.queries, keys.positives, keys.negatives))
    if len(torch.unique(texts)) < len(texts):
        return True
    own = torch.stack((keys.queries, keys.positives), dim=1)
    extra = (keys.known[:, :, None] != own[:, None, :]).all(-1)
    return bool(torch.isin(keys.known[extra], texts).any())


def _any_equal(rows: Tensor, columns: Tensor) -> Tensor:
    """Return whether row i and column j share a key: (r, k) and (c, 2) -> (r, c)."""
    equal = rows.new_zeros(len(rows), len(columns), dtype=torch.bool)
    for k in range(rows.shape[1]):
        for side in range(columns.shape[1]):
            equal |= rows[:, k, None] == columns[None, :, side]
    return equal
