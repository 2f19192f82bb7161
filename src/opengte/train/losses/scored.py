"""Losses that learn from scores: those of a teacher model, or gold scores."""

import torch
import torch.nn.functional as F
from torch import Tensor

from opengte.train.losses.contrastive import CandidateScores, candidates_logsumexp
from opengte.train.losses.items import Similarity, TextVectors
from opengte.train.losses.streamed import PartitionSum, logsumexp


def distil_kl(
    student: CandidateScores,
    teacher: CandidateScores,
    count: int,
    *,
    temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Return KL(teacher || student) over each row's candidates, a scalar.

    Both distributions are a softmax of scores / temperature over the row's positive and negatives.
    count is the number of rows of the global batch; the result is this process's share.

    >>> import torch
    >>> scores = CandidateScores(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([0]))
    >>> float(distil_kl(scores, scores, 1, temperature=1.0, teacher_temperature=1.0))
    0.0
    """
    log_p = _log_softmax(teacher, teacher_temperature)
    log_q = _log_softmax(student, temperature)
    pieces = [p.exp() * (p - q) for p, q in zip(log_p, log_q, strict=True)]
    return (pieces[0].sum() + pieces[1].sum()) / count


def _log_softmax(groups: CandidateScores, temperature: float) -> tuple[Tensor, Tensor]:
    scaled = CandidateScores(
        groups.positive / temperature, groups.negative / temperature, groups.owners
    )
    total = candidates_logsumexp(scaled)
    return scaled.positive - total, scaled.negative - total[scaled.owners]


def margin_mse(student: CandidateScores, teacher: CandidateScores, count: int) -> Tensor:
    """Return MarginMSE: squared error of the margins positive - negative (arXiv 2010.02666).

    Summed over this process's negatives and divided by count, the negatives of the global batch.

    >>> import torch
    >>> rows = torch.tensor([0])
    >>> student = CandidateScores(torch.tensor([1.0]), torch.tensor([0.5]), rows)
    >>> teacher = CandidateScores(torch.tensor([3.0]), torch.tensor([1.0]), rows)
    >>> float(margin_mse(student, teacher, 1))  # (0.5 - 2) ** 2
    2.25
    """
    ours, theirs = (g.positive[g.owners] - g.negative for g in (student, teacher))
    return (ours - theirs).square().sum() / max(1, count)


def _added(a: TextVectors, b: TextVectors) -> Tensor:
    return a.values[:, :1] + b.values[:, :1].T


_ADDED = Similarity(
    lambda items: items, _added, lambda a, b: (a.values + b.values)[:, 0], (2048, 2048)
)


def cosent(scores: Tensor, labels: Tensor, *, scale: float = 20.0) -> Tensor:
    """Return CoSENT: log(1 + sum of exp(scale * (s_j - s_i)) over pairs with label_i > label_j).

    scores and labels (n,) are those of the global batch, and so is the result: a process's share is
    the loss divided by the number of processes (https://kexue.fm/archives/8847).

    >>> import torch
    >>> round(float(cosent(torch.tensor([0.9, 0.1]), torch.tensor([1.0, 0.0]), scale=1.0)), 4)
    0.3711
    """
    column = (scores * scale)[:, None]

    def unordered(_: Tensor, rows: slice, columns: slice) -> Tensor:
        return labels[rows, None] <= labels[None, columns]

    total = logsumexp(
        [PartitionSum(TextVectors(-column), TextVectors(column), unordered)], _ADDED, 1.0
    )
    return torch.cat((total, total.new_zeros(1))).logsumexp(0)


def pointwise(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return binary cross-entropy of logits (r,) against labels in [0, 1] (r,).

    Summed over this process's pairs and divided by count, the pairs of the global batch.

    >>> import torch
    >>> round(float(pointwise(torch.tensor([0.0]), torch.tensor([1.0]), 1)), 4)
    0.6931
    """
    return (
        F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="sum") / count
    )
