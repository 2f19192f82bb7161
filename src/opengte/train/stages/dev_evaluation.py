"""Evaluation on development data, during training and before.

Pairs: nDCG@10 of retrieving each query's positives among the documents of all rows. Scored pairs:
Spearman's correlation. Raw texts: the geometric mean of the probabilities of masked tokens.
Rerankers: mean reciprocal rank of the positive among a row's own candidates.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from opengte import batching
from opengte.data import BatchTexts, Dataset, DatasetSource, TrainingBatch, cross_encoder_sequences
from opengte.data.arrays import Longs
from opengte.data.shards.dataset import TextRefs
from opengte.errors import InputError
from opengte.ranking_metrics import ndcg
from opengte.reference.layers import to_device
from opengte.train import losses
from opengte.train.loop import Evaluate
from opengte.train.losses import TextVectors
from opengte.train.models.trainable import TrainableModel
from opengte.train.objectives import LateContrastive, MaskedTokens, Objective, Ranking
from opengte.train.stages.recipe import BatchLimits
from opengte.types import Floats, PackedBatch

ROWS = 1000  # of a source
LATE_ROWS = 300  # whose token vectors are compared
TOKENS = 4096  # computed at once
TOP = 10

Measure = Callable[[TrainableModel, DatasetSource], float | None]


def dev_evaluation(dataset: Dataset, objective: Objective, limits: BatchLimits) -> Evaluate:
    """Return a function that evaluates a model: the mean over sources first, then each source."""
    measure = _measure(objective, limits)
    metric = _metric(dataset, objective)

    def evaluate(step: int, trainable: TrainableModel) -> dict[str, float]:
        with torch.no_grad():
            measured = {s.name: measure(trainable, s) for s in dataset.sources}
        values = {name: value for name, value in measured.items() if value is not None}
        if not values:
            raise InputError(
                f"`{dataset.folder}` has no source that can be measured: expected pairs, scored "
                "pairs or raw texts; for a reranker rows with negatives"
            )
        each = {f"{metric} {name}": v for name, v in values.items()} if len(values) > 1 else {}
        return {metric: float(np.mean(list(values.values()))), **each}

    return evaluate


def _metric(dataset: Dataset, objective: Objective) -> str:
    if isinstance(objective, MaskedTokens):
        return "masked likelihood"
    if isinstance(objective, Ranking):
        return "MRR"
    kinds = {source.kind for source in dataset.sources}
    return "Spearman" if kinds == {"scored"} else "nDCG@10" if kinds == {"pairs"} else "mean"


def _measure(objective: Objective, limits: BatchLimits) -> Measure:
    if isinstance(objective, MaskedTokens):
        return lambda trainable, source: masked_likelihood(trainable, source, objective, limits)
    if isinstance(objective, Ranking):
        return lambda trainable, source: mean_reciprocal_rank(trainable, source, objective)
    late = isinstance(objective, LateContrastive)
    if late:
        return lambda trainable, source: (
            retrieval_ndcg(trainable, source, limits, late=True) if source.kind == "pairs" else None
        )
    return lambda trainable, source: (
        retrieval_ndcg(trainable, source, limits)
        if source.kind == "pairs"
        else spearman(trainable, source, limits)
        if source.kind == "scored"
        else None
    )


def embed_texts(trainable: TrainableModel, texts: PackedBatch) -> Floats:
    """Return the dense vectors of texts, (n, d) float32, of length one."""
    device = next(trainable.parameters()).device
    parts = batching.cut_batches(texts.lengths, TOKENS)
    chunks = [trainable(to_device(texts.select(part), device))["dense"].cpu() for part in parts]
    table = torch.empty(len(texts), chunks[0].shape[1], dtype=chunks[0].dtype)
    for part, rows in zip(parts, chunks, strict=True):
        table[torch.from_numpy(part)] = rows
    unit: Floats = torch.nn.functional.normalize(table, dim=-1).float().numpy()
    return unit


def token_vectors(trainable: TrainableModel, texts: PackedBatch) -> TextVectors:
    """Return the token vectors of texts, in order."""
    device = next(trainable.parameters()).device
    found: list[torch.Tensor] = [torch.empty(0)] * len(texts)
    for part in batching.cut_batches(texts.lengths, TOKENS):
        own = texts.select(part)
        rows = trainable(to_device(own, device))["tokens"].cpu()
        pieces = torch.split(rows, own.lengths.tolist())
        for place, piece in zip(part.tolist(), pieces, strict=True):
            found[place] = piece
    offsets = torch.from_numpy(texts.cu_seqlens.astype(np.int64))
    return losses.LATE.prepare(TextVectors(torch.cat(found), offsets))


def maxsim_scores(
    trainable: TrainableModel, queries: PackedBatch, documents: PackedBatch
) -> Floats:
    """Return the MaxSim of each query with each document, (n, m) float32, block by block."""
    asked, texts = token_vectors(trainable, queries), token_vectors(trainable, documents)
    rows, columns = losses.LATE.tile
    scores = torch.cat(
        [
            torch.cat(
                [
                    losses.LATE.matrix(asked[i : i + rows], texts[j : j + columns])
                    for j in range(0, len(texts), columns)
                ],
                dim=1,
            )
            for i in range(0, len(asked), rows)
        ]
    )
    table: Floats = scores.float().numpy()
    return table


def retrieval_ndcg(
    trainable: TrainableModel, source: DatasetSource, limits: BatchLimits, *, late: bool = False
) -> float:
    """Return nDCG@10 over the first rows of a source of pairs; late: by MaxSim."""
    own = source.get(np.arange(min(LATE_ROWS if late else ROWS, source.rows)))
    query_keys = source.hashes(own.queries)
    documents = _together(own.positives, own.negatives)
    _, first, asked = np.unique(query_keys, axis=0, return_index=True, return_inverse=True)
    keys = source.hashes(documents)
    _, kept, place = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    relevant = np.zeros((len(first), len(kept)), bool)
    owners = np.repeat(asked.reshape(-1), own.positive_counts)
    relevant[owners, place.reshape(-1)[: len(owners)]] = True
    asked_texts = source.pack(_some(own.queries, first), "query", limits["query_tokens"])
    texts = source.pack(_some(documents, kept), "document", limits["document_tokens"])
    if late:
        scores = maxsim_scores(trainable, asked_texts, texts)
    else:
        scores = embed_texts(trainable, asked_texts) @ embed_texts(trainable, texts).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    gains = np.take_along_axis(relevant, order, axis=1)
    return float(ndcg(gains, relevant, TOP).mean())


def spearman(trainable: TrainableModel, source: DatasetSource, limits: BatchLimits) -> float | None:
    """Return Spearman's correlation of similarities and gold scores, None without scores."""
    own = source.get(np.arange(min(ROWS, source.rows)))
    if own.positive_scores is None or source.rows < 2:
        return None
    a = embed_texts(trainable, source.pack(own.queries, "query", limits["query_tokens"]))
    b = embed_texts(trainable, source.pack(own.positives, "document", limits["document_tokens"]))
    return float(
        np.corrcoef(tied_ranks((a * b).sum(axis=1)), tied_ranks(own.positive_scores))[0, 1]
    )


def tied_ranks(values: Floats) -> npt.NDArray[np.float64]:
    """Return ranks, with equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse]
    return ranks


def masked_likelihood(
    trainable: TrainableModel, source: DatasetSource, objective: MaskedTokens, limits: BatchLimits
) -> float | None:
    """Return the geometric mean of the probabilities of masked tokens, the same ones each time."""
    if source.kind != "texts":
        return None
    cuts = limits["query_tokens"], limits["document_tokens"]
    batch = _batch(source, np.arange(min(ROWS, source.rows)), cuts)
    hidden, targets = objective.draw(batch, (0,))
    device = next(trainable.parameters()).device
    total, count = 0.0, 0
    for part in batching.cut_batches(hidden.lengths, TOKENS):
        places = _places(hidden, part)
        wanted = torch.from_numpy(targets[places].astype(np.int64)).to(device)
        total += float(trainable(to_device(hidden.select(part), device), wanted)["masked"])
        count += int((wanted >= 0).sum())
    return math.exp(-total / max(1, count))


def mean_reciprocal_rank(
    trainable: TrainableModel, source: DatasetSource, objective: Ranking
) -> float | None:
    """Return the mean reciprocal rank of the best positive among a row's own candidates."""
    if source.kind != "pairs":
        return None
    rows = np.arange(min(ROWS, source.rows))
    own = source.get(rows)
    rows = rows[own.negative_counts > 0]
    if not len(rows):
        return None
    batch = _batch(source, rows, (None, None))
    texts = cross_encoder_sequences(batch, objective.tokenizer, objective.max_length)
    device = next(trainable.parameters()).device
    scores = np.empty(len(texts), np.float32)
    for part in batching.cut_batches(texts.lengths, TOKENS):
        scores[part] = trainable(to_device(texts.select(part), device))["score"].cpu().numpy()
    ends = np.cumsum(batch.positive.counts + batch.negative.counts)
    ranks = []
    for end, good, bad in zip(ends, batch.positive.counts, batch.negative.counts, strict=True):
        positives, others = scores[end - good - bad : end - bad], scores[end - bad : end]
        ranks.append(1 / (1 + int((others >= positives.max()).sum())))
    return float(np.mean(ranks))


def _batch(
    source: DatasetSource, asked: Longs, cuts: tuple[int | None, int | None]
) -> TrainingBatch:
    """Return rows of a source as one batch with all their texts, truncated on both sides."""
    own = source.get(asked)

    def column(side: str, slots: TextRefs, counts: Longs) -> BatchTexts:
        texts = source.pack(slots, side, cuts[side == "document"])
        return BatchTexts(texts, counts.astype(np.int32), source.hashes(slots))

    one = np.ones_like(asked)
    positive = column("document", own.positives, own.positive_counts)
    return TrainingBatch(
        step=0,
        source=source,
        total=len(asked),
        first=0,
        rows=asked,
        query=column("query", own.queries, one),
        positive=positive,
        negative=column("document", own.negatives, own.negative_counts),
        known_hashes=positive.hashes,
        known_counts=positive.counts,
    )


def _places(texts: PackedBatch, part: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    spans = [np.arange(texts.cu_seqlens[i], texts.cu_seqlens[i + 1]) for i in part]
    return np.concatenate(spans).astype(np.intp)


def _together(first: TextRefs, second: TextRefs) -> TextRefs:
    shards = np.concatenate([first.shards, second.shards])
    return replace(first, shards=shards, texts=np.concatenate([first.texts, second.texts]))


def _some(slots: TextRefs, indices: npt.NDArray[np.intp]) -> TextRefs:
    return replace(slots, shards=slots.shards[indices], texts=slots.texts[indices])
