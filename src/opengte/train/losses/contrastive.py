"""Contrastive losses over a global batch with in-batch negatives, each the mean over its rows."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opengte.errors import InputError
from opengte.train.losses.items import concatenate_vectors
from opengte.train.losses.pairs import FalseNegativeMasks, GlobalBatch
from opengte.train.losses.streamed import PartitionSum, logsumexp


def info_nce(pairs: GlobalBatch, *, temperature: float, margin: float | None = None) -> Tensor:
    """Return InfoNCE: softmax of each query's positive over all documents (arXiv 1807.03748).

    The documents are the positives and negatives of all rows of the global batch. Two kinds of
    false negatives are masked: texts that `batch.keys` shows to be positives of the query and, with
    margin, documents that score more than `margin` above the row's positive. Returns a scalar, this
    process's share.

    >>> import torch
    >>> from opengte.train.losses import GlobalBatch, TextVectors
    >>> texts = TextVectors(torch.eye(2))
    >>> none, owners = TextVectors(torch.zeros(0, 2)), torch.zeros(0, dtype=torch.int64)
    >>> batch = GlobalBatch(texts, texts, none, owners, slice(0, 2), slice(0, 0))
    >>> loss = info_nce(batch, temperature=1.0)
    >>> round(float(loss), 4)  # log(1 + exp(-1))
    0.3133
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
    """Return GTE's improved contrastive loss (arXiv 2308.03281, equation 6).

    The partition function sums query to document, query to query, document to query and document to
    document scores in one logarithm. Negatives are documents, never queries; a row's own negatives
    do not count against its positive. False negatives are masked as in `info_nce`, but `margin`
    does not apply to scores between documents. Returns a scalar, this process's share. Raises
    InputError for a similarity that is not symmetric (late interaction).

    >>> import torch
    >>> from opengte.train.losses import GlobalBatch, TextVectors
    >>> texts = TextVectors(torch.eye(2))
    >>> none, owners = TextVectors(torch.zeros(0, 2)), torch.zeros(0, dtype=torch.int64)
    >>> batch = GlobalBatch(texts, texts, none, owners, slice(0, 2), slice(0, 0))
    >>> loss = improved_contrastive(batch, temperature=1.0)
    >>> round(float(loss), 4)  # log(2 + 4 exp(-1))
    1.2446
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
    """Scores of each row against its own candidates.

    positive (r,) float; negative (m,) float, and owners (m,) int64, the row of each negative.
    """

    positive: Tensor
    negative: Tensor
    owners: Tensor


def own_negatives_loss(
    groups: CandidateScores, count: int, *, temperature: float, margin: float | None = None
) -> Tensor:
    """Return softmax cross-entropy of each positive over the row's own negatives only.

    For sources whose batches hold many true positives (labels, classes), where in-batch negatives
    would be false negatives, and for rerankers. count is the number of rows of the global batch.
    Negatives more than `margin` above their positive are masked. Returns a scalar, this process's
    share.

    >>> import torch
    >>> scores = CandidateScores(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([0]))
    >>> round(float(own_negatives_loss(scores, 1, temperature=1.0)), 4)
    0.3133
    """
    negative = groups.negative
    if margin is not None:
        limit = (groups.positive.detach() + margin)[groups.owners]
        negative = negative.masked_fill(negative > limit, float("-inf"))
    scaled = CandidateScores(groups.positive / temperature, negative / temperature, groups.owners)
    return (candidates_logsumexp(scaled) - scaled.positive).sum() / count


def candidates_logsumexp(groups: CandidateScores) -> Tensor:
    """Return the log-sum-exp of each row's positive and negatives, (r,)."""
    highest = groups.positive.detach().scatter_reduce(
        0, groups.owners, groups.negative.detach(), "amax"
    )
    sums = (groups.positive - highest).exp()
    sums = sums.index_add(0, groups.owners, (groups.negative - highest[groups.owners]).exp())
    return highest + sums.log()


def score_candidates(pairs: GlobalBatch) -> CandidateScores:
    """Score this process's rows against their own positives and negatives.

    >>> import torch
    >>> from opengte.train.losses import GlobalBatch, TextVectors
    >>> vectors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> query, positive, negative = (TextVectors(vectors[i : i + 1]) for i in range(3))
    >>> rows = slice(0, 1)
    >>> batch = GlobalBatch(query, positive, negative, torch.tensor([0]), rows, rows)
    >>> score_candidates(batch).positive, score_candidates(batch).negative
    (tensor([1.]), tensor([0.]))
    """
    return CandidateScores(*pairs.prepared().own_scores())


def mask_false_negatives(groups: CandidateScores, pairs: GlobalBatch) -> CandidateScores:
    """Return the scores with -inf for negatives that are known positives of their row's query.

    Unchanged if the batch has no keys.
    """
    if pairs.keys is None:
        return groups
    keys = torch.stack((pairs.keys.queries, pairs.keys.positives), dim=1)
    keys = torch.cat((keys, pairs.keys.known), dim=1)[pairs.rows][groups.owners]
    known = (keys == pairs.keys.negatives[pairs.own, None]).any(1)
    return replace(groups, negative=groups.negative.masked_fill(known, float("-inf")))
