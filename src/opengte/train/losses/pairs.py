"""The texts of a global batch as the losses see them, and which of them are no negatives."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from opengte.train.losses.items import COSINE, Similarity, TextVectors
from opengte.train.losses.streamed import Mask


@dataclass(frozen=True, eq=False)
class TextKeys:
    """Numbers that are equal exactly where texts are equal, int64, over the whole global batch.

    queries, positives (n,); negatives (m,); known (n, k): further texts that are positives of each
    row's query, padded with any key of the row.
    """

    queries: Tensor
    positives: Tensor
    negatives: Tensor
    known: Tensor


@dataclass(frozen=True, eq=False)
class GlobalBatch:
    """A global batch: n queries, a positive each, and m negatives, any number of them for a row.

    owners (m,) int64 says whose negative each is, in rows' order. A loss is computed for `rows`,
    and for the negatives `own` that they own: those of this process. The sum over all processes is
    the mean over the n rows, so that gradients are summed, never averaged.
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
        """Return the pairs with vectors made ready for scoring (unit length for cosines)."""
        prepare = self.similarity.prepare
        return replace(
            self,
            queries=prepare(self.queries),
            positives=prepare(self.positives),
            negatives=prepare(self.negatives),
        )

    def truncated(self, dimensions: int) -> "GlobalBatch":
        """Return the pairs with only the first values of each dense vector (Matryoshka)."""
        cut = [
            items.with_values(items.values[:, :dimensions])
            for items in (self.queries, self.positives, self.negatives)
        ]
        return replace(self, queries=cut[0], positives=cut[1], negatives=cut[2])

    def own_scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scores of this process's positives and negatives, and each negative's row.

        Call it on prepared pairs. The rows count from the first of this process.
        """
        queries = self.queries[self.rows]
        owners = self.owners[self.own] - self.rows.start
        paired = self.similarity.paired
        positive = paired(queries, self.positives[self.rows])
        return positive, paired(queries.select(owners), self.negatives[self.own]), owners


def number_texts(hashes: Tensor) -> Tensor:
    """Return for each hash (t, w) of a text a number (t,) that equal hashes share."""
    numbers: Tensor = torch.unique(hashes, dim=0, return_inverse=True)[1]
    return numbers


@dataclass(frozen=True, eq=False)
class FalseNegativeMasks:
    """Which texts of other rows are no negatives of a row, by texts and by scores.

    A text is known to be none if it is the row's query or one of its positives, or if its own pair
    shares a text with the row's; it is likely to be none if it scores above `limit` (n,), the score
    of the row's positive and a margin.
    """

    pairs: GlobalBatch
    limit: Tensor | None

    def queries(self, *, likely: bool = True) -> Mask:
        """Return the mask of queries as columns: a row's own does not count."""
        return self._mask(self._query_keys(), self._places(), likely, keep=False)

    def queries_and_own(self, *, likely: bool = True) -> Mask:
        """Return the mask of queries as columns, the row's own included."""
        return self._mask(self._query_keys(), self._places(), likely, keep=True)

    def documents(self) -> Mask:
        """Return the mask of positives and negatives as columns: the row's own positive counts."""
        return self._mask(self._document_keys(), self._document_owners(), True, keep=True)

    def others_documents(self, *, likely: bool) -> Mask:
        """Return the mask of positives and negatives as columns: none of the row's own counts."""
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
    """Return whether any text occurs twice, so that there is something to mask."""
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
