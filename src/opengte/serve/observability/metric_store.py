"""Counters, gauges and histograms of all worker processes, as one array of numbers.

Each worker adds to a row of its own in shared memory, which costs well under a microsecond and
needs no other process; the process that is asked for the metrics sums the rows. A worker that is
replaced goes on in its predecessor's row, so that counters never fall. Labels take their values
from lists that are fixed at the start: no client can create a new series.
"""

import itertools
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from opengte.serve.shared_memory import SharedMemory

ROW_BYTES = 2**20  # of each worker; memory is only allocated where it is written
OTHER = "other"  # the label for values that are not in the list


@dataclass(frozen=True)
class MetricFamily:
    """The metrics of one name: what they measure, and the values that each label may have.

    bounds are a histogram's upper bounds; merge is how the rows of several workers are combined
    (each: a label `worker` keeps them apart).
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    bounds: tuple[float, ...] = ()
    merge: Literal["sum", "min", "each"] = "sum"

    @property
    def width(self) -> int:
        """The numbers of one series: a histogram has its buckets, +Inf, and the sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1

    def combinations(self) -> Iterator[tuple[str, ...]]:
        """Yield the label values of each series, in the order of the array."""
        return itertools.product(*(values for _, values in self.labels))


@dataclass(frozen=True)
class MetricSeries:
    """The values of one series: one number, or a histogram's buckets and then the sum."""

    family: MetricFamily
    labels: dict[str, str]
    values: tuple[float, ...]


def metric_memory(workers: int, descriptor: int | None = None) -> SharedMemory:
    """Return memory for so many rows: new, or that of an inherited descriptor."""
    return SharedMemory(workers * ROW_BYTES, descriptor)


class SharedMetricStore:
    """The rows of all workers; this process writes one of them."""

    def __init__(
        self, families: Sequence[MetricFamily], shared: SharedMemory, row: int = 0
    ) -> None:
        """Take the families, the same in every worker, and write the given row.

        Raises ValueError if they do not fit in a row.
        """
        self.families = tuple(families)
        self._numbers = memoryview(shared.bytes).cast("d")
        self._rows = len(shared.bytes) // ROW_BYTES
        self._row_length = ROW_BYTES // 8
        self._lock = threading.Lock()
        self._indices: dict[tuple[str, tuple[str, ...]], int] = {}
        self._by_name = {family.name: family for family in self.families}
        index = row * self._row_length
        needed = sum(f.width * sum(1 for _ in f.combinations()) for f in self.families)
        if needed > self._row_length:
            raise ValueError(f"the metrics need {needed} numbers; a row has {self._row_length}")
        for family in self.families:
            for values in family.combinations():
                self._indices[family.name, values] = index
                if family.kind == "gauge":
                    self._numbers[index] = 0.0  # of a predecessor in this row
                index += family.width

    def index(self, name: str, *labels: str) -> int:
        """Return the index of a series; an unknown label value counts as `other`."""
        index = self._indices.get((name, labels))
        if index is not None:
            return index
        known = tuple(
            value if value in values else OTHER
            for value, (_, values) in zip(labels, self._by_name[name].labels, strict=True)
        )
        return self._indices[name, known]

    def add(self, index: int, amount: float = 1.0) -> None:
        """Add to a counter or gauge."""
        with self._lock:  # another thread may count too
            self._numbers[index] += amount

    def set(self, index: int, value: float) -> None:
        """Set a gauge."""
        self._numbers[index] = value

    def observe(self, index: int, bounds: tuple[float, ...], value: float) -> None:
        """Count a value in a histogram with these bounds."""
        with self._lock:
            self._numbers[index + bisect_left(bounds, value)] += 1
            self._numbers[index + len(bounds) + 1] += value

    def collect(self) -> Iterator[MetricSeries]:
        """Yield the series of all workers, merged, without those that are empty.

        Gauges and metrics without labels are never left out.
        """
        offset = 0
        for family in self.families:
            names = [name for name, _ in family.labels]
            for labels in family.combinations():
                rows = [self._values(row, offset, family.width) for row in range(self._rows)]
                offset += family.width
                yield from _merged(family, dict(zip(names, labels, strict=True)), rows)

    def _values(self, row: int, offset: int, width: int) -> list[float]:
        start = row * self._row_length + offset
        return list(map(float, self._numbers[start : start + width]))

    def close(self) -> None:
        """Release the shared memory."""
        self._numbers.release()


def _merged(
    family: MetricFamily, labels: dict[str, str], rows: Sequence[Sequence[float]]
) -> Iterator[MetricSeries]:
    if family.merge == "each":
        for number, row in enumerate(rows):
            yield MetricSeries(family, {**labels, "worker": str(number)}, tuple(row))
        return
    join = min if family.merge == "min" else sum
    values = tuple(join(column) for column in zip(*rows, strict=True))
    empty = not any(values)
    if not empty or not labels or (family.kind == "gauge" and OTHER not in labels.values()):
        yield MetricSeries(family, labels, values)
