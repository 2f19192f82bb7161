"""Batch sampling: the rows in the batch of step s, as a pure function of the seed and s.

Each step draws a source, with a probability that grows with its rows to the power alpha; with
length buckets, then one of its buckets, so that all its rows are equally likely. A bucket goes
through its rows in the order of a permutation, a new one in each epoch; rows that do not fill a
last batch wait for the next epoch.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from opengte.data.arrays import Longs
from opengte.data.sampling.permutation import mix, permuted
from opengte.data.shards.dataset import Dataset, DatasetSource
from opengte.errors import InputError
from opengte.types import Ints

LengthBuckets = tuple[
    tuple[int, int], ...
]  # (most tokens of a row's longest text, batch), ascending
SPAN = 4096  # steps whose draws are made at once

# purposes of random draws
SOURCE, ROWS = 1, 2


@dataclass(frozen=True, eq=False)
class BatchDraw:
    """The global batch of a step: source, rows (B,) int64, and the epoch of their bucket."""

    source: int
    rows: Longs
    epoch: int


@dataclass(frozen=True, eq=False)
class Stratum:
    """Rows that are batched together: all of a source (None), or those of a length bucket."""

    source: int
    rows: Ints | Longs | None
    size: int
    batch: int

    @property
    def batches(self) -> int:
        """Return the number of batches in an epoch."""
        return self.size // self.batch


@dataclass(eq=False)
class BatchSampler:
    """The order of the rows of a data set; `at` returns the global batch of a step.

    The same for any number of processes; resuming needs only the step.
    """

    strata: tuple[Stratum, ...]
    chances: npt.NDArray[np.float64]  # of each stratum; they sum to one
    seed: int
    dropped: dict[str, int]  # source, or source and bucket -> rows that are never used
    fingerprint: str
    _counts: list[Longs] = field(default_factory=list)  # draws of each stratum before each span
    _recent: tuple[int, Longs] | None = None  # a span and its draws

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        *,
        seed: int = 0,
        batch: int | None = None,
        alpha: float = 0.5,
        buckets: Sequence[tuple[int, int]] | None = None,
        small: Literal["error", "drop"] = "error",
    ) -> "BatchSampler":
        r"""Return a data set's sampler, in global batches of `batch` rows or in length buckets.

        buckets are (maximum tokens of a row's longest text, batch), ascending. Longer rows go into
        the last bucket; a bucket with fewer rows than its batch is merged into the next. small says
        whether a source with fewer rows than a batch is an error or dropped. Raises InputError that
        names all such sources, or for impossible values.

        >>> from opengte import checkpoint
        >>> from opengte.data import SourceSpec, SourceTokenizer, prepare
        >>> from pathlib import Path
        >>> _ = Path("faq.csv").write_text("query,answer\nhow,so\nwhy,because\nwho,me\n")
        >>> start = checkpoint.read_checkpoint(folder)
        >>> tokenizer = SourceTokenizer(start.tokenizer, start.prompts, 32, 32)
        >>> _ = prepare([SourceSpec("faq", (Path("faq.csv"),))], Path("data"), tokenizer)
        >>> sampler = BatchSampler.of(Dataset.open("data"), batch=3)
        >>> sorted(sampler.at(0).rows.tolist())
        [0, 1, 2]
        """
        sizes = _sizes(batch, buckets)
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha={alpha}; expected 0 (all sources alike) to 1 (by their rows)")
        strata: list[Stratum] = []
        weights: list[float] = []
        dropped: dict[str, int] = {}
        for number, source in enumerate(dataset.sources):
            if source.weight == 0:
                dropped[source.name] = source.rows
                continue
            own, left_out = _strata(number, source, sizes)
            if left_out:
                dropped[source.name] = left_out
            share = source.weight * float(sum(s.size for s in own)) ** alpha
            total = sum(s.size / s.batch for s in own)
            strata += own
            weights += [share * s.size / s.batch / total for s in own]
        _refuse_small(dataset, strata, small, sizes)
        chances = np.array(weights, dtype=np.float64)
        about = [dataset.fingerprint, seed, list(sizes), alpha, small]
        fingerprint = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        return cls(tuple(strata), chances / chances.sum(), seed, dropped, fingerprint)

    def at(self, step: int) -> BatchDraw:
        """Return the global batch of a step, counted from 0."""
        number, turn = self._drawn(step)
        stratum = self.strata[number]
        epoch, place = divmod(turn, stratum.batches)
        places = np.arange(place * stratum.batch, (place + 1) * stratum.batch)
        rows = permuted(places, stratum.size, mix(self.seed, ROWS, number, epoch))
        if stratum.rows is not None:
            rows = stratum.rows[rows].astype(np.int64)
        return BatchDraw(stratum.source, rows, epoch)

    @property
    def steps_per_epoch(self) -> float:
        """Return the number of steps that draw as many rows as there are."""
        sizes = np.array([s.batch for s in self.strata])
        total = sum(s.size for s in self.strata)
        return float(total / (self.chances @ sizes))

    def _drawn(self, step: int) -> tuple[int, int]:
        """Return the stratum of a step, and how often it was drawn before."""
        if step < 0:
            raise InputError(f"step={step}; expected 0 or more")
        span, within = divmod(step, SPAN)
        while len(self._counts) <= span:
            before = self._counts[-1] if self._counts else np.zeros(len(self.strata), np.int64)
            last = len(self._counts) - 1
            own = np.bincount(self._span(last), minlength=len(self.strata)) if last >= 0 else 0
            self._counts.append(before + own)
        drawn = self._span(span)
        stratum = int(drawn[within])
        turn = int(self._counts[span][stratum]) + int((drawn[:within] == stratum).sum())
        return stratum, turn

    def _span(self, span: int) -> Longs:
        """Return the strata of SPAN consecutive steps."""
        recent = self._recent
        if recent is not None and recent[0] == span:
            return recent[1]
        steps = np.arange(span * SPAN, (span + 1) * SPAN, dtype=np.uint64)
        uniform = (mix(self.seed, SOURCE, steps) >> np.uint64(11)) * 2.0**-53
        drawn = np.searchsorted(np.cumsum(self.chances), uniform, side="right")
        self._recent = span, np.minimum(drawn, len(self.strata) - 1)
        return self._recent[1]


def _sizes(batch: int | None, buckets: Sequence[tuple[int, int]] | None) -> LengthBuckets:
    """Return the buckets, one without limit where none are given."""
    if (batch is None) == (buckets is None):
        raise InputError(f"batch={batch} and buckets={buckets}; expected one of them")
    sizes = ((2**31 - 1, batch),) if batch is not None else tuple(map(tuple, buckets or ()))
    tokens = [int(most) for most, _ in sizes]
    if not sizes or tokens != sorted(set(tokens)) or any(b < 1 for _, b in sizes):
        raise InputError(
            f"batch={batch}, buckets={buckets}; expected a batch of at least 1, or buckets of "
            "(most tokens, batch) with growing tokens"
        )
    return tuple((int(most), int(size)) for most, size in sizes)


def _strata(number: int, source: DatasetSource, sizes: LengthBuckets) -> tuple[list[Stratum], int]:
    """Return the strata of a source, and the number of its rows that are in none."""
    usable = _usable(source)
    left_out = 0 if usable is None else source.rows - len(usable)
    if len(sizes) == 1:
        size = source.rows if usable is None else len(usable)
        if size < sizes[0][1]:
            return [], source.rows
        return [Stratum(number, usable, size, sizes[0][1])], left_out
    rows = np.arange(source.rows) if usable is None else usable
    limits = [most for most, _ in sizes[:-1]]
    bucket = np.searchsorted(limits, source.longest[rows], side="left")
    strata: list[Stratum] = []
    waiting = np.empty(0, np.int64)
    for index, (_, batch) in enumerate(sizes):
        here = np.sort(np.concatenate([waiting, rows[bucket == index]]))
        waiting = np.empty(0, np.int64)
        if len(here) < batch:
            waiting = here
        else:
            strata.append(Stratum(number, _small_ints(here), len(here), batch))
    return strata, left_out + len(waiting)


def _usable(source: DatasetSource) -> Longs | None:
    """Return the rows of a labelled source that have another row of their label; None: all."""
    if source.kind != "labelled":
        return None
    counts = np.bincount(source.label_ids, minlength=1)
    if (counts > 0).sum() < 2:
        return np.empty(0, np.int64)
    return np.flatnonzero(counts[source.label_ids] > 1)


def _small_ints(rows: Longs) -> Ints | Longs:
    return rows.astype(np.int32) if len(rows) and rows[-1] < 2**31 else rows


def _refuse_small(
    dataset: Dataset, strata: Sequence[Stratum], small: str, sizes: LengthBuckets
) -> None:
    used = {stratum.source for stratum in strata}
    missing = [s for i, s in enumerate(dataset.sources) if i not in used and s.weight > 0]
    if strata and (not missing or small == "drop"):
        return
    if not missing:
        raise InputError(f"`{dataset.folder}` has no source with a weight above 0")
    least = min(batch for _, batch in sizes)
    named = ", ".join(f"`{s.name}` ({_usable_rows(s)})" for s in missing)
    raise InputError(
        f"sources smaller than a batch of {least}: {named}. Use a smaller batch, more data, or "
        "leave them out (small=drop, or a weight of 0)."
    )


def _usable_rows(source: DatasetSource) -> str:
    usable = _usable(source)
    if usable is None:
        return f"{source.rows:,} rows"
    return f"{len(usable):,} of {source.rows:,} rows have another of their label"
