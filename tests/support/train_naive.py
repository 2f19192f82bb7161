"""The losses as their formulas say them: one row, one text, one score at a time, in float64."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from opengte.train.losses import COSINE, GlobalBatch, TextKeys, TextVectors

Score = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Texts:
    """A global batch in the naive form: vectors by row, texts as words."""

    queries: Tensor
    positives: Tensor
    negatives: list[Tensor]  # of each row (any, d)
    query_texts: list[str]
    positive_texts: list[str]
    negative_texts: list[list[str]]
    known_texts: list[list[str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.queries)


def random_texts(
    n: int, d: int, seed: int, *, words: int = 10**6, most: int = 3, spread: float = 1.0
) -> Texts:
    """A batch whose texts are drawn from so many words: few words make many duplicates."""
    generator = torch.Generator().manual_seed(seed)

    def vectors(count: int) -> Tensor:
        x = torch.randn(count, d, generator=generator, dtype=torch.float64)
        return 1.0 + spread * x if spread < 1 else x

    def texts(count: int) -> list[str]:
        return [str(i) for i in torch.randint(words, (count,), generator=generator).tolist()]

    counts = torch.randint(most + 1, (n,), generator=generator).tolist()
    return Texts(
        vectors(n),
        vectors(n),
        [vectors(c) for c in counts],
        texts(n),
        texts(n),
        [texts(c) for c in counts],
        [texts(c % 2) for c in counts],
    )


def number(texts: Texts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The keys of queries, positives, negatives, known (n, 1)."""
    places: dict[str, int] = {}

    def of(words: Sequence[str]) -> Tensor:
        return torch.tensor([places.setdefault(w, len(places)) for w in words], dtype=torch.int64)

    flat = [w for row in texts.negative_texts for w in row]
    known = [(k or [q])[0] for k, q in zip(texts.known_texts, texts.query_texts, strict=True)]
    return of(texts.query_texts), of(texts.positive_texts), of(flat), of(known)[:, None]


def pairs_of(
    texts: Texts,
    rows: slice | None = None,
    *,
    keys: bool = True,
    dtype: torch.dtype = torch.float64,
) -> tuple[GlobalBatch, list[Tensor]]:
    """The same batch for the losses, with the leaves that gradients flow to."""
    flat = torch.cat([*texts.negatives, texts.queries[:0]])
    leaves = [x.detach().clone().requires_grad_() for x in (texts.queries, texts.positives, flat)]
    counts = torch.tensor([len(row) for row in texts.negatives])
    owners = torch.repeat_interleave(torch.arange(len(texts)), counts)
    rows = rows or slice(0, len(texts))
    own = slice(int(counts[: rows.start].sum()), int(counts[: rows.stop].sum()))
    q, p, n, k = number(texts)
    pairs = GlobalBatch(
        *(TextVectors(x) for x in leaves),
        owners,
        rows,
        own,
        TextKeys(q, p, n, k) if keys else None,
        COSINE,
    )
    return pairs, leaves


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def related(texts: Texts, i: int, j: int) -> bool:
    """Whether pair j shares a text with pair i, or with its known positives."""
    mine = {texts.query_texts[i], texts.positive_texts[i], *texts.known_texts[i]}
    return bool(mine & {texts.query_texts[j], texts.positive_texts[j]})


def is_mine(texts: Texts, i: int, text: str) -> bool:
    return text in (texts.query_texts[i], texts.positive_texts[i], *texts.known_texts[i])


def query_document_scores(texts: Texts, i: int, masks: bool, margin: float | None) -> list[Tensor]:
    """Scores of query i: its positive first, then every document that counts."""
    q = texts.queries[i]
    positive = cosine(q, texts.positives[i])
    limit = math.inf if margin is None else positive.item() + margin
    scores = []
    for j in range(len(texts)):
        s = cosine(q, texts.positives[j])
        if j != i and not (masks and related(texts, i, j)) and s.item() <= limit:
            scores.append(s)
        for negative, text in zip(texts.negatives[j], texts.negative_texts[j], strict=True):
            s = cosine(q, negative)
            if not (masks and is_mine(texts, i, text)) and s.item() <= limit:
                scores.append(s)
    return [positive, *scores]


def info_nce(
    texts: Texts, temperature: float, *, masks: bool = True, margin: float | None = None
) -> Tensor:
    losses = []
    for i in range(len(texts)):
        scores = torch.stack(query_document_scores(texts, i, masks, margin)) / temperature
        losses.append(torch.logsumexp(scores, 0) - scores[0])
    return torch.stack(losses).mean()


def improved(
    texts: Texts, temperature: float, *, masks: bool = True, margin: float | None = None
) -> Tensor:
    """Equation 6 of arXiv 2308.03281, hard negatives among the documents."""
    losses = []
    for i in range(len(texts)):
        scores = query_document_scores(texts, i, masks, margin)  # q to d
        positive = scores[0]
        limit = math.inf if margin is None else positive.item() + margin
        for j in range(len(texts)):
            apart = j != i and not (masks and related(texts, i, j))
            qq = cosine(texts.queries[i], texts.queries[j])
            if apart and qq.item() <= limit:  # q to q
                scores.append(qq)
            dq = cosine(texts.positives[i], texts.queries[j])
            if j == i or (apart and dq.item() <= limit):  # d to q
                scores.append(dq)
            if apart:  # d to d
                scores.append(cosine(texts.positives[i], texts.positives[j]))
            for negative, text in zip(texts.negatives[j], texts.negative_texts[j], strict=True):
                if j != i and not (masks and is_mine(texts, i, text)):
                    scores.append(cosine(texts.positives[i], negative))
        scaled = torch.stack(scores) / temperature
        losses.append(torch.logsumexp(scaled, 0) - positive / temperature)
    return torch.stack(losses).mean()


def own_scores(texts: Texts, i: int, masks: bool = False) -> Tensor:
    q = texts.queries[i]
    scores = [cosine(q, texts.positives[i])]
    for negative, text in zip(texts.negatives[i], texts.negative_texts[i], strict=True):
        if not (masks and is_mine(texts, i, text)):
            scores.append(cosine(q, negative))
    return torch.stack(scores)


def own_negatives(texts: Texts, temperature: float) -> Tensor:
    losses = []
    for i in range(len(texts)):
        scores = own_scores(texts, i, masks=True) / temperature
        losses.append(torch.logsumexp(scores, 0) - scores[0])
    return torch.stack(losses).mean()


def kl(
    texts: Texts, teacher: list[Tensor], temperature: float, teacher_temperature: float
) -> Tensor:
    losses = []
    for i in range(len(texts)):
        p = torch.softmax(teacher[i] / teacher_temperature, 0)
        q = torch.softmax(own_scores(texts, i) / temperature, 0)
        losses.append((p * (p.log() - q.log())).sum())
    return torch.stack(losses).mean()


def margin_mse(texts: Texts, teacher: list[Tensor]) -> Tensor:
    errors = []
    for i in range(len(texts)):
        scores = own_scores(texts, i)
        for k in range(1, len(scores)):
            difference = (scores[0] - scores[k]) - (teacher[i][0] - teacher[i][k])
            errors.append(difference**2)
    return torch.stack(errors).mean()


def cosent(scores: Tensor, labels: Tensor, scale: float) -> Tensor:
    total = torch.ones((), dtype=scores.dtype)
    for i in range(len(scores)):
        for j in range(len(scores)):
            if labels[i] > labels[j]:
                total = total + torch.exp(scale * (scores[j] - scores[i]))
    return total.log()
