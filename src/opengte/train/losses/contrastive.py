"""Contrastive losses over a global batch, each the mean over its rows."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opengte.errors import InputError
from opengte.train.losses.items import joined
from opengte.train.losses.pairs import Masks, Pairs
from opengte.train.losses.streamed import Sum, logsumexp


def info_nce(pairs: Pairs, *, temperature: float, margin: float | None = None) -> Tensor:
    """Score each query's positive against all documents of the batch (arXiv 1807.03748).

    Documents are the positives and negatives of all rows. With margin, documents that score above
    the row's positive by more than margin do not count. Returns this process's share.
    """
    pairs = pairs.prepared()
    masks, positive = _masks(pairs, margin)
    queries = pairs.queries[pairs.rows]
    documents = joined(pairs.positives, pairs.negatives)
    terms = [Sum(queries, documents, masks.documents())]
    total = logsumexp(terms, pairs.similarity, temperature)
    return (total - positive / temperature).sum() / len(pairs)


def improved_contrastive(
    pairs: Pairs, *, temperature: float, margin: float | None = None
) -> Tensor:
    """Score both ways and within each side, in one logarithm (GTE, arXiv 2308.03281, equation 6).

    The partition sums query to documents, query to queries, document to queries and document to
    documents. Negatives are documents, never queries; a row's own negatives do not count against
    its positive. With margin, texts that score above the row's positive by more than margin do not
    count, documents against documents excepted. Returns this process's share.
    """
    if not pairs.similarity.symmetric:
        raise InputError(
            "improved_contrastive scores documents against queries as well, but the similarity of "
            "token vectors goes from queries to documents only: use info_nce"
        )
    pairs = pairs.prepared()
    masks, positive = _masks(pairs, margin)
    queries, positives = pairs.queries[pairs.rows], pairs.positives[pairs.rows]
    documents = joined(pairs.positives, pairs.negatives)
    terms = [
        Sum(queries, documents, masks.documents()),
        Sum(queries, pairs.queries, masks.queries()),
        Sum(positives, pairs.queries, masks.queries_and_own()),
        Sum(positives, documents, masks.others_documents(likely=False)),
    ]
    total = logsumexp(terms, pairs.similarity, temperature)
    return (total - positive / temperature).sum() / len(pairs)


def _masks(pairs: Pairs, margin: float | None) -> tuple[Masks, Tensor]:
    positive = pairs.similarity.paired(pairs.queries[pairs.rows], pairs.positives[pairs.rows])
    limit = None if margin is None else positive.detach() + margin
    return Masks(pairs, limit), positive


@dataclass(frozen=True, eq=False)
class Groups:
    """Scores of rows' own candidates: positive (r,), negative (m,) with its row in owners (m,)."""

    positive: Tensor
    negative: Tensor
    owners: Tensor


def own_negatives(
    groups: Groups, count: int, *, temperature: float, margin: float | None = None
) -> Tensor:
    """Score each positive against the row's own negatives only; count is the global batch.

    For sources whose batches hold many true positives (labels, classes), and for rerankers.
    """
    negative = groups.negative
    if margin is not None:
        limit = (groups.positive.detach() + margin)[groups.owners]
        negative = negative.masked_fill(negative > limit, float("-inf"))
    scaled = Groups(groups.positive / temperature, negative / temperature, groups.owners)
    return (group_logsumexp(scaled) - scaled.positive).sum() / count


def group_logsumexp(groups: Groups) -> Tensor:
    """Return the log-sum-exp of each row's positive and negatives (r,)."""
    highest = groups.positive.detach().scatter_reduce(
        0, groups.owners, groups.negative.detach(), "amax"
    )
    sums = (groups.positive - highest).exp()
    sums = sums.index_add(0, groups.owners, (groups.negative - highest[groups.owners]).exp())
    return highest + sums.log()


def own_groups(pairs: Pairs) -> Groups:
    """Score this process's rows against their own candidates."""
    return Groups(*pairs.prepared().own_scores())


def without_known(groups: Groups, pairs: Pairs) -> Groups:
    """Return the groups with -inf for negatives that are known to be positives of their row."""
    if pairs.keys is None:
        return groups
    keys = torch.stack((pairs.keys.queries, pairs.keys.positives), dim=1)
    keys = torch.cat((keys, pairs.keys.known), dim=1)[pairs.rows][groups.owners]
    known = (keys == pairs.keys.negatives[pairs.own, None]).any(1)
    return replace(groups, negative=groups.negative.masked_fill(known, float("-inf")))
