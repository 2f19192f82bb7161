"""Run a plan: hand its shards to workers, and find the row that ends a worker.

The driver holds the shards that are being computed, and counts. Several drivers may run one plan:
each begins elsewhere, and a shard that another one published is done.
"""

import json
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from opengte.bulk.shards.plan import FOLDER, BulkPlan
from opengte.bulk.shards.pools import BrokenWorkerError, Outcome, WorkerEnded, WorkerPool
from opengte.bulk.shards.worker import ShardCounts, ShardTask
from opengte.errors import EngineError, InputError

DONE = "done.json"
LIVES = 3  # times that a shard may end its worker before a row is looked for
REPORT_SECONDS = 5.0  # between the notes by which `status` knows of a run
STALE_SECONDS = 3600.0  # age of a part file that nobody writes any more
SHOWN = 5


@dataclass
class RunReport:
    """What a run did. Counts are of all shards that are done, failed_shards of those that are not.

    was_done: the run was complete before, and nothing was done.
    """

    counts: ShardCounts = field(default_factory=ShardCounts)
    shards: int = 0
    failed_shards: list[tuple[int, str]] = field(default_factory=list)
    ended_workers: int = 0
    seconds: float = 0.0
    was_done: bool = False


def run_plan(
    plan: BulkPlan,
    pool: Callable[[], WorkerPool],
    *,
    max_failed: float | None = None,
    note: dict[str, Any] | None = None,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> RunReport:
    """Compute every shard of a plan that is not done; repeating an interrupted call continues it.

    pool starts the workers. max_failed is the share of rows that may fail before the run stops;
    note is kept for `status`. Raises InputError if too many rows failed, EngineError if no worker
    can be started, OSError if nothing can be written.
    """
    if (counts := completed(plan)) is not None:
        return RunReport(counts, plan.totals.shards, was_done=True)
    run = _Run(plan, pool(), max_failed, note or {}, on_progress)
    try:
        if any(shard.shared for shard in plan.shards()):
            run.work(ShardTask(shard, for_others=True) for shard in plan.shards() if shard.shared)
        if not run.report.failed_shards:
            ours = run.report.counts
            counted = ShardCounts(computed=ours.computed, tokens=ours.tokens)
            run.report.shards, run.report.counts = 0, counted
            start = random.randrange(max(1, plan.totals.shards))
            run.work(ShardTask(shard) for shard in plan.shards(start))
    finally:
        run.close()
    if not run.report.failed_shards:
        told = {"digest": plan.digest, "counts": asdict(run.report.counts)}
        plan.place.publish(DONE, json.dumps(told).encode(), replace=True)
    return run.report


def completed(plan: BulkPlan) -> ShardCounts | None:
    """Return the counts of a run that is complete, and whose files are all there."""
    found = plan.place.read(DONE)
    if found is None or (told := json.loads(found))["digest"] != plan.digest:
        return None
    there = sum(len(published(plan, folder)) for folder in range(-(-plan.totals.shards // FOLDER)))
    return ShardCounts(**told["counts"]) if there == plan.totals.shards else None


def published(plan: BulkPlan, folder: int) -> dict[str, int]:
    """Return the names and sizes of the shards that one folder of a run has."""
    found = plan.place.sizes(f"shards/{folder:04}")
    return {name: size for name, size in found.items() if name.endswith(".parquet")}


class _Run:
    """One driver's work on a plan."""

    def __init__(
        self,
        plan: BulkPlan,
        pool: WorkerPool,
        max_failed: float | None,
        note: dict[str, Any],
        on_progress: Callable[[int], None],
    ) -> None:
        self._plan, self._pool, self._max_failed = plan, pool, max_failed
        self._on_progress = on_progress
        self._start = time.time()
        self._told = 0.0
        name = f"{socket.gethostname()}-{os.getpid()}-{int(self._start)}"
        self._file = f"drivers/{name}.json"
        self._note = note | {"workers": pool.size, "started": self._start}
        self._ended = Counter[tuple[int, bool]]()
        self._fruitless = Counter[tuple[int, bool]]()
        self._searches: dict[tuple[int, bool], _Search] = {}
        self._tokens = 0
        self.report = RunReport()

    def work(self, tasks: Iterator[ShardTask]) -> None:
        """Compute tasks, with as many at a time as there are workers."""
        running = 0
        again: list[ShardTask] = []
        while True:
            while running < self._pool.size:
                task = again.pop() if again else next(tasks, None)
                if task is None:
                    break
                self._pool.submit(task)
                running += 1
            if not running:
                return
            for task, outcome in self._pool.outcomes(REPORT_SECONDS):
                running -= 1
                following = self._settle(task, outcome)
                again += [following] if following else []
            self._tell()

    def close(self) -> None:
        """End the workers, and keep a last note."""
        self._pool.close()
        self.report.seconds = time.time() - self._start
        self._tell(ended=True)
        for folder in range(-(-self._plan.totals.shards // FOLDER)):
            for kind in ("shards", "shared", "failed"):
                before = time.time() - STALE_SECONDS
                self._plan.place.remove_stale_parts(f"{kind}/{folder:04}", before)

    def _settle(self, task: ShardTask, outcome: Outcome) -> ShardTask | None:
        """Count what a task came to; return the one that follows from it."""
        key = (task.shard.number, task.for_others)
        if isinstance(outcome, BrokenWorkerError):
            raise EngineError(str(outcome))
        if isinstance(outcome, OSError):
            raise outcome
        if isinstance(outcome, WorkerEnded):
            self.report.ended_workers += 1
            self._ended[key] += 1
        if (search := self._searches.get(key)) is not None:
            return self._follow(search, outcome)
        if isinstance(outcome, WorkerEnded):
            if self._ended[key] < LIVES:
                return task
            self._searches[key] = search = _Search(task, outcome.reason)
            return search.probe()
        if isinstance(outcome, Exception):
            self._failed(task, str(outcome) or type(outcome).__name__)
            return None
        self._ended.pop(key, None)
        self._count(task, outcome)
        return None

    def _follow(self, search: "_Search", outcome: Outcome) -> ShardTask | None:
        """Go on looking for a row; when it is found, compute the shard without it."""
        if search.learn(isinstance(outcome, WorkerEnded)):
            return search.probe()
        task = search.task
        key = (task.shard.number, task.for_others)
        del self._searches[key]
        if search.guilty is None:  # somebody ended the workers, or the shard needs too much memory
            self._fruitless[key] += 1
            if self._fruitless[key] < LIVES:
                self._ended[key] = 0
                return task
            self._failed(task, f"ends its worker ({search.reason}), though no single row does")
            return None
        self._ended[key] = LIVES - 1  # another row is looked for at once
        reason = f"ends its worker ({search.reason}) each time"
        return replace(task, skip=(*task.skip, (search.guilty, reason)))

    def _failed(self, task: ShardTask, reason: str) -> None:
        self.report.failed_shards.append((task.shard.number, f"{task.shard.span.file}: {reason}"))
        self._check(task.shard.rows)

    def _count(self, task: ShardTask, counts: ShardCounts) -> None:
        self.report.shards += 1
        self.report.counts = self.report.counts.plus(counts)
        self._tokens += counts.tokens
        if not task.for_others:
            self._on_progress(counts.rows)
            self._check(0)

    def _check(self, lost: int) -> None:
        """Raise InputError if more rows failed than were allowed."""
        failed, rows = self.report.counts.failed + lost, self._plan.totals.rows
        if self._max_failed is not None and failed > self._max_failed * rows:
            raise InputError(
                f"{failed:,} of {rows:,} rows failed, more than the share {self._max_failed} of "
                f"--max-failed: the run stopped. The reasons are in `{self._plan.place.url}/failed`"
            )

    def _tell(self, *, ended: bool = False) -> None:
        """Keep a note of how far this driver is, now and then."""
        now = time.time()
        if not ended and now - self._told < REPORT_SECONDS:
            return
        self._told = now
        note = self._note | {"updated": now, "ended": ended, "tokens": self._tokens}
        note |= {"ended_workers": self.report.ended_workers}
        try:
            self._plan.place.publish(self._file, json.dumps(note).encode(), replace=True)
        except OSError:  # the note is a convenience; what a full disk means, the shards tell
            pass


class _Search:
    """Halves a shard that ends its worker, until the row is found that does it."""

    def __init__(self, task: ShardTask, reason: str) -> None:
        self.task, self.reason = task, reason
        self.guilty: int | None = None
        rows = len(task.shard.shared) if task.for_others else task.shard.rows
        self._low, self._high = 0, rows
        self._ends = 0

    def probe(self) -> ShardTask:
        """Return the rows to try next: the first half of those that are left."""
        return replace(self.task, only=(self._low, self._middle))

    @property
    def _middle(self) -> int:
        return max(self._low + 1, (self._low + self._high) // 2)

    def learn(self, ended: bool) -> bool:
        """Take the outcome of a probe, an end only if it repeats; return whether to go on."""
        if ended:
            self._ends += 1
            if self._ends < 2:
                return True
            self._ends = 0
            if self._high - self._low <= 1:
                number = self._low
                shared = self.task.shard.shared
                self.guilty = shared[number] if self.task.for_others else number
                return False
            self._high = self._middle
            return True
        self._ends = 0
        if self._middle >= self._high:
            return False
        self._low = self._middle
        return True
