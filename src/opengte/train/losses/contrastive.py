"""Contrastive losses over a global batch, each the mean over its rows."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opengte.errors import InputError
from opengte.train.losses.items import concatenate_vectors
from opengte.train.losses.pairs import FalseNegativeMasks, GlobalBatch
from opengte.train.losses.streamed import PartitionSum, logsumexp


def info_nce(pairs: GlobalBatch, *, temperature: float, margin: float | None = None) -> Tensor:
    """Score each query's positive against all documents of the batch (arXiv 1807.03748).

    Documents are the positives and negatives of all rows. With margin, documents that score above
    the row's positive by more than margin do not count. Returns this process's share.
    """
    pairs = pairs.prepared()
    masks, positive = _masks(pairs, margin)
    queries = pairs.queries[pairs.rows]
    documents = concatenate_vectors(pairs.positives, pairs.negatives)
    terms = [PartitionSum(queries, documents, masks.documents())]
    total = logsumexp(terms, pairs.similarity, temperature)
    return (total - positive / temperature).sum() / len(pairs)


def improved_contrastive(
    pairs: GlobalBatch, *, temperature: float, margin: float | None = None
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
    documents = concatenate_vectors(pairs.positives, pairs.negatives)
    terms = [
        PartitionSum(queries, documents, masks.documents()),
        PartitionSum(queries, pairs.queries, masks.queries()),
        PartitionSum(positives, pairs.queries, masks.queries_and_own()),
        PartitionSum(positives, documents, masks.others_documents(likely=False)),
    ]
    total = logsumexp(terms, pairs.similarity, temperature)
    return (total - positive / temperature).sum() / len(pairs)


def _masks(pairs: GlobalBatch, margin: float | None) -> tuple[FalseNegativeMasks, Tensor]:
    positive = pairs.similarity.paired(pairs.queries[pairs.rows], pairs.positives[pairs.rows])
    limit = None if margin is None else positive.detach() + margin
    return FalseNegativeMasks(pairs, limit), positive


@dataclass(frozen=True, eq=False)
class CandidateScores:
    """Scores of rows' own candidates: positive (r,), negative (m,) with its row in owners (m,)."""

    positive: Tensor
    negative: Tensor
    owners: Tensor


def own_negatives_loss(
    groups: CandidateScores, count: int, *, temperature: float, margin: float | None = None
) -> Tensor:
    """Score each positive against the row's own negatives only; count is the global batch.

    For sources whose batches hold many true positives (labels, classes), and for rerankers.
    """
    negative = groups.negative
    if margin is not None:
        limit = (groups.positive.detach() + margin)[groups.owners]
        negative = negative.masked_fill(negative > limit, float("-inf"))
    scaled = CandidateScores(groups.positive / temperature, negative / temperature, groups.owners)
    return (candidates_logsumexp(scaled) - scaled.positive).sum() / count


def candidates_logsumexp(groups: CandidateScores) -> Tensor:
    """Return the log-sum-exp of each row's positive and negatives (r,)."""
    highest = groups.positive.detach().scatter_reduce(
        0, groups.owners, groups.negative.detach(), "amax"
    )
    sums = (groups.positive - highest).exp()
    sums = sums.index_add(0, groups.owners, (groups.negative - highest[groups.owners]).exp())
    return highest + sums.log()


def score_candidates(pairs: GlobalBatch) -> CandidateScores:
    """Score this process's rows against their own candidates."""
    return CandidateScores(*pairs.prepared().own_scores())


def mask_false_negatives(groups: CandidateScores, pairs: GlobalBatch) -> CandidateScores:
    """Return the groups with -inf for negatives that are known to be positives of their row."""
    if pairs.keys is None:
        return groups
    keys = torch.stack((pairs.keys.queries, pairs.keys.positives), dim=1)
    keys = torch.cat((keys, pairs.keys.known), dim=1)[pairs.rows][groups.owners]
    known = (keys == pairs.keys.negatives[pairs.own, None]).any(1)
    return replace(groups, negative=groups.negative.masked_fill(known, float("-inf")))
