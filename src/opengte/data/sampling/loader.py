"""The batches of one process, step after step, prefetched by a thread.

Letters in shapes: n rows of this process, k texts, t tokens.
"""

import hashlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType

import numpy as np
import numpy.typing as npt

from opengte.data.arrays import Longs, ranges
from opengte.data.examples import Hashes
from opengte.data.sampling.permutation import mix, permuted
from opengte.data.sampling.sampler import ROWS, BatchDraw, BatchSampler
from opengte.data.shards.dataset import Dataset, DatasetSource, RowTexts, TextRefs
from opengte.errors import InputError
from opengte.tokenization import Tokenizer
from opengte.tokenization.ragged import Ragged, pack_sequences, truncate
from opengte.types import Floats, Ints, PackedBatch

POSITIVE, NEGATIVE, LABEL = ROWS + 1, ROWS + 2, ROWS + 3  # purposes of random draws
LABELLED_NEGATIVES = 4  # texts of other labels for a labelled row, by default


@dataclass(frozen=True, eq=False)
class BatchTexts:
    """The texts of one role (query, positive, negative) in a batch, row after row.

    counts (n,) int32 texts of each row; hashes (k, 2) int64, equal for equal texts in all roles;
    scores (k,) float32, a teacher's or gold scores, if the source has them.
    """

    texts: PackedBatch
    counts: Ints
    hashes: Hashes
    scores: Floats | None = None

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """One process's rows of the global batch of a step.

    The process has `rows` (n,) of the source, at positions first, first + 1, ... of the `total`
    rows of the global batch. known_hashes (k, 2) are all positives of each row's query, drawn or
    not, and known_counts (n,) their number per row: they are false negatives elsewhere in the
    batch.
    """

    step: int
    source: DatasetSource
    total: int
    first: int
    rows: Longs
    query: BatchTexts
    positive: BatchTexts
    negative: BatchTexts
    known_hashes: Hashes
    known_counts: Ints

    def __len__(self) -> int:
        """Return the number of rows of this process."""
        return len(self.rows)

    @property
    def tokens(self) -> int:
        """Return the number of tokens of all texts."""
        return sum(len(c.texts.ids) for c in (self.query, self.positive, self.negative))

    @cached_property
    def digest(self) -> str:
        """A hash of the step, the source, the rows and all token ids: for logs and tests."""
        digest = hashlib.blake2b(f"{self.step} {self.source.name}".encode(), digest_size=16)
        digest.update(self.rows.astype("<i8").tobytes())
        for column in (self.query, self.positive, self.negative):
            digest.update(column.texts.ids.astype("<i4").tobytes())
            digest.update(column.counts.astype("<i4").tobytes())
        return digest.hexdigest()


class BatchLoader:
    r"""The batches of process `rank` of `world`, from step `start` to `stop`; an iterator.

    query_tokens and document_tokens truncate texts further than they were prepared. positives and
    negatives are the maximum of a row (None: all), drawn by seed, epoch and row. A thread
    prefetches `ahead` batches (0: no thread). Use it in a `with`, or close it. Raises InputError
    for impossible values.

    >>> from opengte import checkpoint
    >>> from opengte.data import BatchSampler, SourceSpec, SourceTokenizer, prepare
    >>> from pathlib import Path
    >>> _ = Path("faq.csv").write_text("query,answer\nhow,so\nwhy,because\nwho,me\n")
    >>> start = checkpoint.read_checkpoint(folder)
    >>> tokenizer = SourceTokenizer(start.tokenizer, start.prompts, 32, 32)
    >>> _ = prepare([SourceSpec("faq", (Path("faq.csv"),))], Path("data"), tokenizer)
    >>> dataset = Dataset.open("data")
    >>> with BatchLoader(dataset, BatchSampler.of(dataset, batch=2), stop=3) as loader:
    ...     [(batch.step, len(batch), len(batch.positive)) for batch in loader]
    [(0, 2, 2), (1, 2, 2), (2, 2, 2)]
    """

    def __init__(
        self,
        dataset: Dataset,
        order: BatchSampler,
        *,
        start: int = 0,
        stop: int | None = None,
        rank: int = 0,
        world: int = 1,
        query_tokens: int | None = None,
        document_tokens: int | None = None,
        positives: int | None = 1,
        negatives: int | None = None,
        ahead: int = 2,
    ) -> None:
        _check(rank, world, positives, negatives, query_tokens, document_tokens)
        self.dataset, self.order = dataset, order
        self.rank, self.world = rank, world
        self.query_tokens, self.document_tokens = query_tokens, document_tokens
        self.positives, self.negatives = positives, negatives
        self.start, self.stop = start, stop
        self.waited = 0.0  # seconds that the caller has waited for batches
        self._labels: dict[int, _Labels] = {}
        self._lock = threading.Lock()
        self._ahead = _Ahead(self, ahead) if ahead else None
        self._next = start

    def at(self, step: int) -> TrainingBatch:
        """Return the batch of a step."""
        draw = self.order.at(step)
        source, total = self.dataset.sources[draw.source], len(draw.rows)
        first, last = (total * r // self.world for r in (self.rank, self.rank + 1))
        rows = draw.rows[first:last]
        texts = source.get(rows)
        if source.kind == "labelled":
            query, positive, negative = self._labelled(draw, source, rows, texts)
        else:
            query = self._column(source, "query", texts.queries, np.ones_like(rows))
            positive = self._some(draw, rows, source, texts, POSITIVE)
            negative = self._some(draw, rows, source, texts, NEGATIVE)
        known = (positive.hashes, positive.counts)
        if source.kind != "labelled":
            known = _known(source, rows)
        return TrainingBatch(step, source, total, first, rows, query, positive, negative, *known)

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Yield the batches from `start` on."""
        while self.stop is None or self._next < self.stop:
            begun = time.perf_counter()
            batch = self.at(self._next) if self._ahead is None else self._ahead.get()
            self.waited += time.perf_counter() - begun
            self._next += 1
            yield batch

    def close(self) -> None:
        """Stop the thread."""
        if self._ahead is not None:
            self._ahead.close()

    def __enter__(self) -> "BatchLoader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _column(
        self, source: DatasetSource, side: str, slots: TextRefs, counts: npt.ArrayLike
    ) -> BatchTexts:
        limit = self.query_tokens if side == "query" else self.document_tokens
        counted = np.asarray(counts).astype(np.int32)
        return BatchTexts(source.pack(slots, side, limit), counted, source.hashes(slots))

    def _some(
        self, draw: BatchDraw, rows: Longs, source: DatasetSource, texts: RowTexts, purpose: int
    ) -> BatchTexts:
        """Return the positives or the negatives of rows."""
        own = purpose == POSITIVE
        slots, counts = (
            (texts.positives, texts.positive_counts)
            if own
            else (texts.negatives, texts.negative_counts)
        )
        scores = texts.positive_scores if own else texts.negative_scores
        most = self.positives if own else self.negatives
        if most is not None and len(counts) and counts.max() > most:
            key = mix(self.order.seed, purpose, draw.source, draw.epoch)
            kept, counts = draw_at_most(counts, most, row_keys(key, rows))
            slots = TextRefs(slots.shards[kept], slots.texts[kept])
            scores = None if scores is None else scores[kept]
        column = self._column(source, "document", slots, counts)
        return BatchTexts(column.texts, column.counts, column.hashes, scores)

    def _labelled(
        self, draw: BatchDraw, source: DatasetSource, rows: Longs, texts: RowTexts
    ) -> tuple[BatchTexts, BatchTexts, BatchTexts]:
        """Return texts, another text of the label of each, and texts of other labels."""
        with self._lock:
            labels = self._labels.get(draw.source) or _Labels(source.label_ids)
            self._labels[draw.source] = labels
        count = LABELLED_NEGATIVES if self.negatives is None else self.negatives
        key = mix(self.order.seed, LABEL, draw.source, draw.epoch)
        same, other = labels.draw(rows, count, row_keys(key, rows))
        one, many = np.ones_like(rows), np.full_like(rows, count)
        return (
            self._column(source, "query", texts.queries, one),
            self._column(source, "document", source.get(same).positives, one),
            self._column(source, "document", source.get(other).positives, many),
        )


def _known(source: DatasetSource, rows: Longs) -> tuple[Hashes, Ints]:
    """Return the hashes of all positives of each row's query, and how many they are."""
    every, counts = source.siblings.expand(rows)
    texts = source.get(every)
    owner = np.repeat(np.arange(len(rows)), counts)
    known = np.bincount(owner, texts.positive_counts, len(rows)).astype(np.int32)
    return source.hashes(texts.positives), known


def row_keys(key: npt.NDArray[np.uint64], rows: Longs) -> npt.NDArray[np.uint64]:
    """Return one random word for each row, (n,) uint64."""
    return mix(np.full(len(rows), key, dtype=np.uint64), rows.astype(np.uint64))


def draw_at_most(counts: Longs, most: int, keys: npt.NDArray[np.uint64]) -> tuple[Longs, Longs]:
    """Return which texts stay when rows keep `most` texts, drawn by their keys, and the counts.

    counts (n,) texts of each row, keys (n,). The texts that stay keep their order.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    within = np.arange(len(owner)) - starts[owner]
    luck = mix(keys[owner], within.astype(np.uint64))
    order = np.lexsort((within, luck, owner))  # row by row, each row's texts by their luck
    kept = np.sort(order[within < most])
    return kept, np.minimum(counts, most)


class _Labels:
    """The rows of a labelled source, by label."""

    def __init__(self, labels: Ints) -> None:
        self.labels = labels
        self.by_label = np.argsort(labels, kind="stable")
        self.counts = np.bincount(labels)
        self.starts = np.cumsum(self.counts) - self.counts
        self.place = np.empty(len(labels), dtype=np.int64)  # of a row among those of its label
        self.place[self.by_label] = np.arange(len(labels)) - np.repeat(self.starts, self.counts)

    def draw(self, rows: Longs, count: int, keys: npt.NDArray[np.uint64]) -> tuple[Longs, Longs]:
        """Return for each row another one of its label, and `count` rows of other labels."""
        own = self.labels[rows]
        size, start = self.counts[own], self.starts[own]
        step = 1 + (mix(keys, 0) % (size - 1).astype(np.uint64)).astype(np.int64)
        same = self.by_label[start + (self.place[rows] + step) % size]
        others = len(self.labels) - size
        index = np.empty((len(rows), count), dtype=np.int64)
        for i in range(len(rows)):  # distinct ones, so long as there are enough
            places = np.arange(count) % others[i]
            index[i] = permuted(places, int(others[i]), keys[i])
        index += np.where(index >= start[:, None], size[:, None], 0)  # the label's own are skipped
        return same, self.by_label[index.reshape(-1)]


class _Ahead:
    """A thread that prefetches the next batches."""

    def __init__(self, batches: BatchLoader, ahead: int) -> None:
        self.batches = batches
        self.made: queue.Queue[TrainingBatch | BaseException] = queue.Queue(ahead)
        self.stopped = threading.Event()
        self.failed: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="gte-data", daemon=True)
        self.thread.start()

    def get(self) -> TrainingBatch:
        """Return the next batch; an error of the thread is raised here."""
        if self.failed is not None:
            raise self.failed
        if self.stopped.is_set():
            raise InputError("these batches were closed. Make new ones.")
        item = self.made.get()
        if isinstance(item, BaseException):
            self.failed = item
            raise item
        return item

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self.stopped.set()
        while self.thread.is_alive():
            try:
                self.made.get(timeout=0.01)
            except queue.Empty:
                self.thread.join(0.01)

    def _run(self) -> None:
        step, stop = self.batches.start, self.batches.stop
        while not self.stopped.is_set() and (stop is None or step < stop):
            try:
                item: TrainingBatch | BaseException = self.batches.at(step)
            except BaseException as error:
                item = error
            self.made.put(item)
            if isinstance(item, BaseException):
                return
            step += 1


def cross_encoder_sequences(
    batch: TrainingBatch,
    tokenizer: Tokenizer,
    max_length: int,
    indices: Sequence[int] | None = None,
) -> PackedBatch:
    """Return (query, document) sequences for a cross-encoder, row after row, positives first.

    Equal to `Tokenizer.encode_pairs` if the texts were not truncated when they were prepared, which
    must have been without prompts. indices (k,) selects documents. Raises InputError if max_length
    leaves no room for two texts.
    """
    layout = batch.source.layout
    first, counts = _bodies(batch.query.texts, layout.size, len(layout.head)), len(batch)
    second = _interleaved(batch, layout.size, len(layout.head))
    per_row = batch.positive.counts + batch.negative.counts
    owner = np.repeat(np.arange(counts), per_row)
    if indices is not None:
        chosen = np.asarray(indices, dtype=np.int64)
        owner, second = owner[chosen], _picked(second, chosen)
    repeated = _picked(first, owner)
    room = max_length - tokenizer.pair.size
    if room < 2:
        raise InputError(
            f"max_length={max_length} leaves no room for two texts: {tokenizer.pair.size} special "
            f"tokens come with them. Use at least {tokenizer.pair.size + 2}."
        )
    share = np.maximum(room * 3 // 4, room - second.lengths)
    kept = np.minimum(repeated.lengths, share)
    parts = [truncate(repeated, kept), truncate(second, room - kept)]
    return pack_sequences(tokenizer.pair, parts, np.zeros(len(owner), dtype=np.int64))


def _bodies(texts: PackedBatch, specials: int, head: int) -> Ragged:
    """Return sequences without the special tokens around them."""
    lengths = texts.lengths.astype(np.int64) - specials
    starts = texts.cu_seqlens[:-1].astype(np.int64) + head
    return Ragged(texts.ids[ranges(starts, lengths)], lengths)


def _interleaved(batch: TrainingBatch, specials: int, head: int) -> Ragged:
    """Return the documents of a batch, each row's positives and then its negatives."""
    both = [_bodies(c.texts, specials, head) for c in (batch.positive, batch.negative)]
    joint = Ragged(
        np.concatenate([part.ids for part in both]), np.concatenate([p.lengths for p in both])
    )
    owner = np.concatenate(
        [np.repeat(np.arange(len(batch)), c.counts) for c in (batch.positive, batch.negative)]
    )
    return _picked(joint, np.argsort(owner, kind="stable"))


def _picked(texts: Ragged, order: Longs) -> Ragged:
    starts = np.cumsum(texts.lengths) - texts.lengths
    lengths = texts.lengths[order]
    return Ragged(texts.ids[ranges(starts[order], lengths)], lengths)


def _check(
    rank: int, world: int, positives: int | None, negatives: int | None, *tokens: int | None
) -> None:
    if not 0 <= rank < world:
        raise InputError(f"rank={rank} of world={world}; expected 0 <= rank < world")
    if positives is not None and positives < 1:
        raise InputError(f"positives={positives}; expected at least 1, or None for all")
    if negatives is not None and negatives < 0:
        raise InputError(f"negatives={negatives}; expected 0 or more, or None for all")
    for limit in tokens:
        if limit is not None and limit < 1:
            raise InputError(f"a limit of {limit} tokens; expected at least 1, or None")
