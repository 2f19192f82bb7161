"""Batch scheduling: a pure policy over token counts, on a clock that the caller passes in.

There are two priorities, interactive and bulk. Interactive items go first, but while items of both
wait, bulk is guaranteed a share of the tokens, which grows with the age of its oldest item up to a
maximum; so neither starves. Within a priority the oldest item goes first, and younger items that
fit fill up the batch. The inputs of a large request count as arriving one after the other, so that
a small request soon overtakes it.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from opengte.serve.inference.types import QueuedItem
from opengte.serve.types import Priority

T = TypeVar("T", bound=QueuedItem)


@dataclass(frozen=True)
class SchedulerPolicy:
    """The limits of the scheduler.

    slice_tokens: maximum tokens of a batch; a single longer item is computed alone.
    min_bulk_share, max_bulk_share: share of the tokens that bulk is guaranteed while interactive
        items wait too; it reaches the maximum when the oldest bulk item is `aging_seconds` old.
    history_slices: how many batches the share is measured over.
    lookahead: how many items that do not fit are skipped to fill a batch.
    """

    slice_tokens: int = 256
    min_bulk_share: float = 0.1
    max_bulk_share: float = 0.5
    aging_seconds: float = 30.0
    history_slices: int = 64
    lookahead: int = 64


@dataclass(slots=True)
class Selection(Generic[T]):
    """The items of the next batch, and those whose deadline passed before they were computed."""

    batch: list[T] = field(default_factory=list)
    expired: list[T] = field(default_factory=list)


class ArrivalQueue(Generic[T]):
    """The items of one priority, oldest first.

    Removed items stay in the heap until they reach its top or make up most of it.
    """

    def __init__(self, places: Iterator[int]) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._places = places
        self._count = 0
        self.tokens = 0

    def __len__(self) -> int:
        return self._count

    @property
    def heap_size(self) -> int:
        """The number of heap entries, those of removed items included."""
        return len(self._heap)

    def add(self, item: T) -> None:
        """Add an item."""
        item.place = next(self._places)
        self._count += 1
        self.tokens += item.tokens
        heapq.heappush(self._heap, (item.arrived, item.place, item))

    def remove(self, item: T) -> None:
        """Remove an item of the queue."""
        self._discount(item)
        if len(self._heap) > 2 * self._count + 64:
            self._heap = [entry for entry in self._heap if entry[2].place == entry[1]]
            heapq.heapify(self._heap)

    def oldest(self) -> T | None:
        """Return the item that arrived first, None if the queue is empty."""
        while self._heap:
            _, place, item = self._heap[0]
            if item.place == place:
                return item
            heapq.heappop(self._heap)
        return None

    def take(
        self, room: int, now: float, lookahead: int, max_item_tokens: float = math.inf
    ) -> Selection[T]:
        """Take the oldest item of at most max_item_tokens, and the next ones that fit into room."""
        skipped: list[tuple[float, int, T]] = []
        selection: Selection[T] = Selection()
        kind = None
        while (item := self.oldest()) is not None and len(skipped) < lookahead:
            entry = heapq.heappop(self._heap)
            full = selection.batch and (item.tokens > room or item.kind != kind)
            if item.deadline is not None and item.deadline <= now:
                selection.expired.append(item)
            elif item.tokens > max_item_tokens or full:
                skipped.append(entry)
                continue
            else:
                kind = item.kind
                room -= item.tokens
                selection.batch.append(item)
            self._discount(item)
            if selection.batch and room <= 0:
                break
        for entry in skipped:
            heapq.heappush(self._heap, entry)
        return selection

    def clear(self) -> list[T]:
        """Remove all items and return them, oldest first."""
        items = []
        while (item := self.oldest()) is not None:
            items.append(item)
            self._discount(item)
        return items

    def _discount(self, item: T) -> None:
        item.place = None
        self._count -= 1
        self.tokens -= item.tokens


class Scheduler(Generic[T]):
    """The items that wait, of both priorities. Not thread-safe."""

    def __init__(self, policy: SchedulerPolicy) -> None:
        self.policy = policy
        places = count()  # unique over both queues, so that an entry of a removed item is detected
        self.interactive: ArrivalQueue[T] = ArrivalQueue(places)
        self.bulk: ArrivalQueue[T] = ArrivalQueue(places)
        # tokens served of each priority while the other one waited too, with exponential decay
        self._served = {"interactive": 0.0, "bulk": 0.0}

    def __len__(self) -> int:
        return len(self.interactive) + len(self.bulk)

    @property
    def tokens(self) -> int:
        """The tokens that wait."""
        return self.interactive.tokens + self.bulk.tokens

    @property
    def single(self) -> T | None:
        """The waiting item if it is the only one and interactive, otherwise None."""
        if len(self.bulk) or len(self.interactive) != 1:
            return None
        return self.interactive.oldest()

    def add(self, item: T) -> None:
        """Queue an item by its priority and arrival."""
        self._queue(item).add(item)

    def remove(self, item: T) -> bool:
        """Remove an item; return whether it was still waiting."""
        if item.place is None:
            return False
        self._queue(item).remove(item)
        return True

    def promote(self, item: T) -> None:
        """Make a bulk item interactive, because an interactive request needs the same input."""
        waiting = item.priority == "bulk" and self.remove(item)
        item.priority = "interactive"
        if waiting:
            self.add(item)

    def clear(self) -> list[T]:
        """Remove and return all items."""
        return self.interactive.clear() + self.bulk.clear()

    def take(self, now: float, max_tokens: int | None = None) -> Selection[T]:
        """Return the next batch, empty if nothing waits; max_tokens defaults to slice_tokens."""
        room = self.policy.slice_tokens if max_tokens is None else max_tokens
        expired: list[T] = []
        while len(self):
            priority = self._next_priority(now)
            queue = self.bulk if priority == "bulk" else self.interactive
            selection = queue.take(room, now, self.policy.lookahead)
            expired += selection.expired
            if selection.batch:
                self._record(priority, sum(item.tokens for item in selection.batch))
                return Selection(_longest_first(selection.batch), expired)
        return Selection([], expired)

    def take_interactive(self, now: float, max_tokens: int) -> Selection[T]:
        """Return a batch of interactive items with at most max_tokens in all, empty if none fits.

        It does not count against the share of bulk, which is a share of what `take` returns.
        """
        selection = self.interactive.take(max_tokens, now, self.policy.lookahead, max_tokens)
        return Selection(_longest_first(selection.batch), selection.expired)

    def _queue(self, item: T) -> ArrivalQueue[T]:
        return self.bulk if item.priority == "bulk" else self.interactive

    def _next_priority(self, now: float) -> Priority:
        oldest = self.bulk.oldest()
        if oldest is None:
            return "interactive"
        if not len(self.interactive):
            return "bulk"
        policy = self.policy
        age = min(1.0, max(0.0, now - oldest.arrived) / policy.aging_seconds)
        share = policy.min_bulk_share + (policy.max_bulk_share - policy.min_bulk_share) * age
        guaranteed = share * (self._served["interactive"] + self._served["bulk"])
        next_tokens = min(oldest.tokens, policy.slice_tokens)
        return "bulk" if self._served["bulk"] + next_tokens <= guaranteed else "interactive"

    def _record(self, priority: Priority, tokens: int) -> None:
        if priority == "interactive" and not len(self.bulk):
            return  # bulk gets no credit for the time when it had nothing to do
        decay = max(0.0, 1.0 - tokens / (self.policy.history_slices * self.policy.slice_tokens))
        for name in self._served:
            self._served[name] *= decay
        self._served[priority] += tokens


def _longest_first(batch: list[T]) -> list[T]:
    return sorted(batch, key=lambda item: -item.tokens)
