"""Counters, gauges and histograms of all worker processes, as one array of numbers.

Each worker adds to a row of its own in shared memory, which costs well under a microsecond and
needs no other process; whoever is asked for the metrics sums the rows. A worker that is replaced
goes on in its predecessor's row, so that counters never fall. Labels take their values from lists
that are known at the start: nothing that a client sends can make a new series.
"""

import itertools
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from opengte.serve.shared_memory import SharedMemory

ROW_BYTES = 2**20  # of each worker; memory is only taken where it is written
OTHER = "other"


@dataclass(frozen=True)
class Family:
    """Metrics of one name: what they measure, and the values that each label may have.

    merge says what the rows of several workers make together; each: they stay apart.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    bounds: tuple[float, ...] = ()
    merge: Literal["sum", "min", "each"] = "sum"

    @property
    def width(self) -> int:
        """Return the numbers of one series: a histogram has its buckets, +Inf, and the sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1

    def combinations(self) -> Iterator[tuple[str, ...]]:
        """Yield the label values of each series, in the order of the array."""
        return itertools.product(*(values for _, values in self.labels))


@dataclass(frozen=True)
class Series:
    """The values of one series: one number, or a histogram's buckets and then the sum."""

    family: Family
    labels: dict[str, str]
    values: tuple[float, ...]


def memory(workers: int, descriptor: int | None = None) -> SharedMemory:
    """Return the memory for so many rows: new, or that of an inherited descriptor."""
    return SharedMemory(workers * ROW_BYTES, descriptor)


class Board:
    """The rows of all workers, of which this process writes one."""

    def __init__(self, families: Sequence[Family], shared: SharedMemory, row: int = 0) -> None:
        self.families = tuple(families)
        self.row = row
        self._numbers = memoryview(shared.bytes).cast("d")
        self._rows = len(shared.bytes) // ROW_BYTES
        self._row_length = ROW_BYTES // 8
        self._lock = threading.Lock()
        self._places: dict[tuple[str, tuple[str, ...]], int] = {}
        self._by_name = {family.name: family for family in self.families}
        place = row * self._row_length
        needed = sum(f.width * sum(1 for _ in f.combinations()) for f in self.families)
        if needed > self._row_length:
            raise ValueError(f"the metrics need {needed} numbers; a row has {self._row_length}")
        for family in self.families:
            for values in family.combinations():
                self._places[family.name, values] = place
                if family.kind == "gauge":
                    self._numbers[place] = 0.0  # a predecessor's is not ours
                place += family.width

    def place(self, name: str, *labels: str) -> int:
        """Return where a series is; a label value that is not known counts as `other`."""
        found = self._places.get((name, labels))
        if found is not None:
            return found
        known = tuple(
            value if value in values else OTHER
            for value, (_, values) in zip(labels, self._by_name[name].labels, strict=True)
        )
        return self._places[name, known]

    def add(self, place: int, amount: float = 1.0) -> None:
        """Add to a counter or gauge."""
        with self._lock:  # another thread may count too
            self._numbers[place] += amount

    def set(self, place: int, value: float) -> None:
        """Set a gauge."""
        self._numbers[place] = value

    def observe(self, place: int, bounds: tuple[float, ...], value: float) -> None:
        """Count a value in a histogram with these bounds."""
        with self._lock:
            self._numbers[place + bisect_left(bounds, value)] += 1
            self._numbers[place + len(bounds) + 1] += value

    def collect(self) -> Iterator[Series]:
        """Yield every series that is not empty, workers summed; gauges and plain ones always."""
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
        """Let go of the shared memory."""
        self._numbers.release()


def _merged(
    family: Family, labels: dict[str, str], rows: Sequence[Sequence[float]]
) -> Iterator[Series]:
    if family.merge == "each":
        for number, row in enumerate(rows):
            yield Series(family, {**labels, "worker": str(number)}, tuple(row))
        return
    join = min if family.merge == "min" else sum
    values = tuple(join(column) for column in zip(*rows, strict=True))
    empty = not any(values)
    if not empty or not labels or (family.kind == "gauge" and OTHER not in labels.values()):
        yield Series(family, labels, values)
