"""The last minutes of load, second by second, for the charts of the start page."""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence

from opengte.serve.shared_memory import SharedMemory

SECONDS = 180  # that are kept
EDGES = tuple(1e-4 * 2 ** (i / 4) for i in range(82))  # of the latency histogram: 0.1 ms to 125 s
COUNTS = ("requests", "failed", "refused", "texts", "tokens", "batches", "room", "busy_us", "queue")
PLACE = {name: 1 + i for i, name in enumerate(COUNTS)}  # place 0 is the second itself
LATENCIES = 1 + len(COUNTS)
WIDTH = LATENCIES + len(EDGES) + 1  # numbers of a second
REFUSED = (429, 503)


class LoadRing:
    """An Observer that adds up each second; workers that share its memory see their sum.

    Every worker writes rows of its own, so that none waits for another; a row that is read while
    its second runs is a little behind, never wrong by more than what is being written.
    """

    def __init__(
        self,
        memory: SharedMemory | None = None,
        worker: int = 0,
        workers: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Write worker's rows; memory of `size_for(workers)` bytes, None where there is but one."""
        buffer = memoryview(memory.bytes if memory else bytearray(self.size_for(workers)))
        self._numbers = buffer.cast("B").cast("q")
        self._own = worker
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: Callable[[], int] = lambda: 0
        self.workers = workers

    @staticmethod
    def size_for(workers: int) -> int:
        """Return the bytes that the rows of so many workers take."""
        return workers * SECONDS * WIDTH * 8

    def close(self) -> None:
        """Let go of the memory, so that it can be closed."""
        self._numbers.release()

    def watch_queue(self, tokens: Callable[[], int]) -> None:
        """Ask tokens() for the queue's size whenever a second begins or the load is read."""
        self._queue = tokens

    def batch(self, model: str, texts: int, tokens: int, budget: int, seconds: float) -> None:
        """Add a computed batch."""
        self._add(batches=1, texts=texts, tokens=tokens, room=budget, busy_us=int(seconds * 1e6))

    def count(self, event: str, model: str, n: int = 1) -> None:
        """Take no notice: what the charts show comes from batches and requests."""

    def request(self, status: int, seconds: float) -> None:
        """Add an answered request."""
        failed = status >= 500 and status not in REFUSED
        with self._lock:
            base = self._row()
            self._numbers[base + PLACE["requests"]] += 1
            self._numbers[base + PLACE["failed"]] += failed
            self._numbers[base + PLACE["refused"]] += status in REFUSED
            if status < 400:
                self._numbers[base + LATENCIES + bisect_left(EDGES, seconds)] += 1

    def seconds(self, since: int = 0) -> list[dict[str, float | int | None]]:
        """Return the whole seconds after `since` that are kept, oldest first, over all workers."""
        with self._lock:
            self._row()  # so that the present queue is seen
        now = int(self._clock())
        first = max(since + 1, now - SECONDS + 2)
        return [self._summary(second) for second in range(first, now)]

    def _add(self, **amounts: int) -> None:
        with self._lock:
            base = self._row()
            for name, amount in amounts.items():
                self._numbers[base + PLACE[name]] += amount

    def _row(self) -> int:
        """Return where the present second's numbers begin, cleared if they were an old second's."""
        second = int(self._clock())
        base = self._base(self._own, second)
        if self._numbers[base] != second:
            for place in range(base + 1, base + WIDTH):
                self._numbers[place] = 0
            self._numbers[base] = second
            self._numbers[base + PLACE["queue"]] = self._queue()
        return base

    @staticmethod
    def _base(worker: int, second: int) -> int:
        return (worker * SECONDS + second % SECONDS) * WIDTH

    def _summary(self, second: int) -> dict[str, float | int | None]:
        total = [0] * WIDTH
        for worker in range(self.workers):
            base = self._base(worker, second)
            if self._numbers[base] == second:
                total = [
                    a + b for a, b in zip(total, self._numbers[base : base + WIDTH], strict=True)
                ]
        value = {name: total[place] for name, place in PLACE.items()}
        latencies = total[LATENCIES:]
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
            "fill": value["tokens"] / value["room"] if value["room"] else None,
            "busy": value["busy_us"] / 1e6,
        }


def quantile(histogram: Sequence[int], share: float) -> float | None:
    """Return the latency in seconds that a share of the answers stayed below; None without any.

    Exact to the width of a step of the histogram, 19 %; what is off its scale counts as its end.
    """
    total = sum(histogram)
    if not total:
        return None
    wanted = share * total
    passed = 0
    for place, n in enumerate(histogram):
        if n and passed + n >= wanted:
            high = EDGES[min(place, len(EDGES) - 1)]
            low = EDGES[place - 1] if place else 0.0
            return min(low + (high - low) * (wanted - passed) / n, high)
        passed += n
    return EDGES[-1]
