"""The load of the last three minutes, second by second, for the charts of the start page."""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence

from opengte.serve.shared_memory import SharedMemory

HISTORY_SECONDS = 180
LATENCY_EDGES = tuple(1e-4 * 2 ** (i / 4) for i in range(82))  # seconds: 0.1 ms to 125 s
_COUNTS = (
    *("requests", "failed", "refused", "texts", "tokens", "batches"),
    *("budget", "busy_us", "queue"),
)
_COLUMNS = {name: 1 + i for i, name in enumerate(_COUNTS)}  # column 0 is the second itself
_LATENCIES = 1 + len(_COUNTS)  # the first column of the histogram
_WIDTH = _LATENCIES + len(LATENCY_EDGES) + 1  # numbers of a second
_REFUSED = (429, 503)


class LoadHistory:
    """An Observer that sums up each second, over all workers that share its memory.

    Every worker writes rows of its own, so that none waits for another; a row that is read while
    it is written lacks at most what is being written.
    """

    def __init__(
        self,
        memory: SharedMemory | None = None,
        worker: int = 0,
        workers: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Write the worker's rows in memory of `size_for(workers)` bytes; None for one worker."""
        buffer = memoryview(memory.bytes if memory else bytearray(self.size_for(workers)))
        self._numbers = buffer.cast("B").cast("q")
        self._worker = worker
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: Callable[[], int] = lambda: 0
        self.workers = workers

    @staticmethod
    def size_for(workers: int) -> int:
        """Return the bytes of memory that so many workers need."""
        return workers * HISTORY_SECONDS * _WIDTH * 8

    def close(self) -> None:
        """Release the memory, so that it can be closed."""
        self._numbers.release()

    def watch_queue(self, tokens: Callable[[], int]) -> None:
        """Call tokens() for the queued tokens whenever a second begins or the load is read."""
        self._queue = tokens

    def batch(self, model: str, texts: int, tokens: int, budget: int, seconds: float) -> None:
        """Add a computed batch."""
        self._add(batches=1, texts=texts, tokens=tokens, budget=budget, busy_us=int(seconds * 1e6))

    def count(self, event: str, model: str, n: int = 1) -> None:
        """Ignore the event: the charts show batches and requests only."""

    def record_request(self, status: int, seconds: float) -> None:
        """Add an answered request."""
        failed = status >= 500 and status not in _REFUSED
        with self._lock:
            base = self._row()
            self._numbers[base + _COLUMNS["requests"]] += 1
            self._numbers[base + _COLUMNS["failed"]] += failed
            self._numbers[base + _COLUMNS["refused"]] += status in _REFUSED
            if status < 400:
                self._numbers[base + _LATENCIES + bisect_left(LATENCY_EDGES, seconds)] += 1

    def seconds(self, since: int = 0) -> list[dict[str, float | int | None]]:
        """Return the complete seconds after the Unix time `since`, oldest first, of all workers.

        Latencies (p50, p99) are in seconds; fill is the share of the batches' token budget that was
        used, busy the seconds of computation; None if there was nothing to measure.
        """
        with self._lock:
            self._row()  # begins the current second, with the queue at its start
        now = int(self._clock())
        first = max(since + 1, now - HISTORY_SECONDS + 2)
        return [self._summary(second) for second in range(first, now)]

    def _add(self, **amounts: int) -> None:
        with self._lock:
            base = self._row()
            for name, amount in amounts.items():
                self._numbers[base + _COLUMNS[name]] += amount

    def _row(self) -> int:
        """Return where the current second's numbers begin, after clearing an old second's."""
        second = int(self._clock())
        base = self._base(self._worker, second)
        if self._numbers[base] != second:
            for index in range(base + 1, base + _WIDTH):
                self._numbers[index] = 0
            self._numbers[base] = second
            self._numbers[base + _COLUMNS["queue"]] = self._queue()
        return base

    @staticmethod
    def _base(worker: int, second: int) -> int:
        return (worker * HISTORY_SECONDS + second % HISTORY_SECONDS) * _WIDTH

    def _summary(self, second: int) -> dict[str, float | int | None]:
        total = [0] * _WIDTH
        for worker in range(self.workers):
            base = self._base(worker, second)
            if self._numbers[base] == second:
                total = [
                    a + b for a, b in zip(total, self._numbers[base : base + _WIDTH], strict=True)
                ]
        value = {name: total[column] for name, column in _COLUMNS.items()}
        latencies = total[_LATENCIES:]
        return {
            "second": second,
            "queue": value["queue"],
            "tokens": value["tokens"],
            "texts": value["texts"],
            "requests": value["requests"],
            "failed": value["failed"],
            "refused": value["refused"],
            "p50": quantile(latencies, 0.50),
            "p99": quantile(latencies, 0.99),
            "fill": value["tokens"] / value["budget"] if value["budget"] else None,
            "busy": value["busy_us"] / 1e6,
        }


def quantile(histogram: Sequence[int], share: float) -> float | None:
    """Return the latency (seconds) below which a share of the answers stayed; None for no answers.

    Exact to the width of a bucket, 19 %; latencies beyond the last bucket count as its upper edge.
    """
    total = sum(histogram)
    if not total:
        return None
    rank = share * total
    below = 0
    for bucket, count in enumerate(histogram):
        if count and below + count >= rank:
            high = LATENCY_EDGES[min(bucket, len(LATENCY_EDGES) - 1)]
            low = LATENCY_EDGES[bucket - 1] if bucket else 0.0
            return min(low + (high - low) * (rank - below) / count, high)
        below += count
    return LATENCY_EDGES[-1]
