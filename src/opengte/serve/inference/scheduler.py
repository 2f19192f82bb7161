"""Which inputs are computed next: a pure policy over token counts and a clock that is handed in.

Two classes wait: interactive and bulk. Interactive goes first, but while both wait bulk is owed a
share of the tokens, which grows with the age of its oldest input up to a bound; so neither starves.
Inside a class the oldest goes first, and younger ones that fit fill the batch up. The inputs of a
large request count as arriving one after the other, so that a small request soon overtakes it.
"""

import heapq
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import count

from opengte.serve.types import Priority


@dataclass(slots=True, eq=False)
class Item:
    """One sequence to compute: its tokens, and what it can share a batch with (equal kinds).

    arrived is when it came, or counts as having come; place is its own while it waits.
    """

    tokens: int
    kind: Hashable
    priority: Priority = "interactive"
    deadline: float | None = None
    arrived: float = 0.0
    place: int | None = None


@dataclass(frozen=True)
class Policy:
    """The bounds of the scheduler.

    slice_tokens is the most that a batch gets, but for a single longer item. Bulk is owed from
    least_share to most_share of the tokens while interactive items wait too, the latter once its
    oldest item is ageing seconds old; the share is measured over about memory slices. lookahead is
    how many waiting items are tried in vain to fill a batch.
    """

    slice_tokens: int = 256
    least_share: float = 0.1
    most_share: float = 0.5
    ageing: float = 30.0
    memory: int = 64
    lookahead: int = 64


@dataclass(slots=True)
class Taken:
    """What to compute now, longest first, and what came too late for that."""

    batch: list[Item] = field(default_factory=list)
    expired: list[Item] = field(default_factory=list)


Entry = tuple[float, int, Item]


class Queue:
    """Items of one class, oldest first; removed ones stay in the heap until they are met."""

    def __init__(self, places: Iterator[int]) -> None:
        self._heap: list[Entry] = []
        self._places = places
        self._live = 0
        self.tokens = 0

    def __len__(self) -> int:
        return self._live

    def add(self, item: Item) -> None:
        """Put an item in its place."""
        item.place = next(self._places)
        self._live += 1
        self.tokens += item.tokens
        heapq.heappush(self._heap, (item.arrived, item.place, item))

    def remove(self, item: Item) -> None:
        """Take out an item that waits."""
        self._gone(item)
        if len(self._heap) > 2 * self._live + 64:
            self._heap = [entry for entry in self._heap if entry[2].place == entry[1]]
            heapq.heapify(self._heap)

    def oldest(self) -> Item | None:
        """Return the item that came first."""
        while self._heap:
            _, place, item = self._heap[0]
            if item.place == place:
                return item
            heapq.heappop(self._heap)
        return None

    def take(self, room: int, now: float, lookahead: int, most: float = math.inf) -> Taken:
        """Take the oldest item of at most most tokens, and those of the next ones that fit."""
        skipped: list[Entry] = []
        taken, kind = Taken(), None
        while (item := self.oldest()) is not None and len(skipped) < lookahead:
            entry = heapq.heappop(self._heap)
            if item.deadline is not None and item.deadline <= now:
                taken.expired.append(item)
            elif item.tokens > most or (taken.batch and (item.tokens > room or item.kind != kind)):
                skipped.append(entry)
                continue
            else:
                kind = item.kind
                room -= item.tokens
                taken.batch.append(item)
            self._gone(item)
            if taken.batch and room <= 0:
                break
        for entry in skipped:
            heapq.heappush(self._heap, entry)
        return taken

    def clear(self) -> list[Item]:
        """Take everything out, oldest first."""
        items = []
        while (item := self.oldest()) is not None:
            items.append(item)
            self._gone(item)
        return items

    def _gone(self, item: Item) -> None:
        item.place = None
        self._live -= 1
        self.tokens -= item.tokens


class Scheduler:
    """Waiting items; not safe to call from several threads at once."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        places = count()  # no two entries share one, so that an old entry is known as such
        self._interactive, self._bulk = Queue(places), Queue(places)
        # tokens of each class served while the other waited too, fading as more is served
        self._served = {"interactive": 0.0, "bulk": 0.0}

    def __len__(self) -> int:
        return len(self._interactive) + len(self._bulk)

    @property
    def tokens(self) -> int:
        """Tokens that wait."""
        return self._interactive.tokens + self._bulk.tokens

    @property
    def interactive_tokens(self) -> int:
        """Tokens that wait and are interactive."""
        return self._interactive.tokens

    @property
    def lone(self) -> Item | None:
        """The item that waits, when it is the only one and interactive."""
        if len(self._bulk) or len(self._interactive) != 1:
            return None
        return self._interactive.oldest()

    def add(self, item: Item) -> None:
        """Queue an item by its class and when it arrived."""
        self._queue(item).add(item)

    def remove(self, item: Item) -> bool:
        """Take an item out; return whether it was still waiting."""
        if item.place is None:
            return False
        self._queue(item).remove(item)
        return True

    def promote(self, item: Item) -> None:
        """Make a bulk item interactive, because an interactive request wants the same input."""
        waiting = item.priority == "bulk" and self.remove(item)
        item.priority = "interactive"
        if waiting:
            self.add(item)

    def clear(self) -> list[Item]:
        """Take everything out."""
        return self._interactive.clear() + self._bulk.clear()

    def take(self, now: float, budget: int | None = None) -> Taken:
        """Return the next batch, of at most budget tokens (slice_tokens); empty if none waits."""
        room = self.policy.slice_tokens if budget is None else budget
        expired: list[Item] = []
        while len(self):
            name = self._next(now)
            queue = self._bulk if name == "bulk" else self._interactive
            taken = queue.take(room, now, self.policy.lookahead)
            expired += taken.expired
            if taken.batch:
                self._count(name, sum(item.tokens for item in taken.batch))
                return Taken(sorted(taken.batch, key=lambda item: -item.tokens), expired)
        return Taken([], expired)

    def take_short(self, now: float, most: int) -> Taken:
        """Return a batch of interactive items of together at most most tokens; empty if none waits.

        They are not counted against bulk, whose share is of what `take` returns.
        """
        taken = self._interactive.take(most, now, self.policy.lookahead, most)
        return Taken(sorted(taken.batch, key=lambda item: -item.tokens), taken.expired)

    def _queue(self, item: Item) -> Queue:
        return self._bulk if item.priority == "bulk" else self._interactive

    def _next(self, now: float) -> Priority:
        oldest = self._bulk.oldest()
        if oldest is None:
            return "interactive"
        if not len(self._interactive):
            return "bulk"
        policy = self.policy
        age = min(1.0, max(0.0, now - oldest.arrived) / policy.ageing)
        share = policy.least_share + (policy.most_share - policy.least_share) * age
        owed = share * (self._served["interactive"] + self._served["bulk"])
        next_tokens = min(oldest.tokens, policy.slice_tokens)
        return "bulk" if self._served["bulk"] + next_tokens <= owed else "interactive"

    def _count(self, name: Priority, tokens: int) -> None:
        if name == "interactive" and not len(self._bulk):
            return  # bulk is owed nothing for the time when it had nothing to do
        fade = max(0.0, 1.0 - tokens / (self.policy.memory * self.policy.slice_tokens))
        for each in self._served:
            self._served[each] *= fade
        self._served[name] += tokens
