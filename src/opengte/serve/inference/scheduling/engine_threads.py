"""The threads that run one model's engines.

A compiled engine reaches its highest throughput as several engines of one thread each, which
compute batches of their own: no thread waits for another, so that small batches cost nothing, and
an urgent input waits for one small batch at most. Two things lower the latency further:

- A single interactive input, after some time without concurrent requests, is computed by another
  engine that uses all processor threads (`all_threads`). An idle engine thread calls it; until it
  is done, no other thread starts a batch.
- Short interactive inputs run on a dedicated high-priority thread (`priority`) while all other
  threads are busy. It is one thread more than there are processors, and the kernel lets it preempt
  the others. When the queue is saturated it idles: then latency comes from the queue alone.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from opengte.engine.base import Engine
from opengte.errors import EngineError
from opengte.serve.inference.scheduling.batching import isolate_failures
from opengte.serve.inference.scheduling.scheduler import Scheduler
from opengte.serve.inference.scheduling.thread_priority import request_short_timeslice
from opengte.serve.inference.types import (
    BatchOutcome,
    Deliver,
    FailedInput,
    InputResult,
    PendingInput,
)

log = logging.getLogger(__name__)

LARGE_BATCH_DELAY = 1.0  # seconds without urgent requests until batches get larger
ALL_THREADS_DELAY = 1.0  # seconds without concurrent requests until an input gets all threads
# Queued interactive tokens, in large batches per engine thread: above the first, throughput counts
# more than latency; above the second, latency comes from the queue alone.
BACKLOGGED, SATURATED = 1, 8
MIN_SHARE_TOKENS = 32  # smallest batch when the queue is divided among idle threads

Compute = Callable[[Engine, Sequence[PendingInput]], list[InputResult]]


@dataclass(frozen=True)
class EngineSet:
    """The engines of one model: one for each engine thread, and two optional ones."""

    per_thread: tuple[Engine, ...]
    all_threads: Engine | None = None  # computes a single input with all processor threads
    all_threads_tokens: int = 0  # the longest input that it gets
    large_batch_tokens: int = 256  # of a batch while there are no urgent requests
    priority: Engine | None = None  # computes short interactive inputs
    priority_tokens: int = 0  # of a batch of the priority thread


@dataclass(frozen=True)
class RunningBatch:
    """What an engine is computing, and since when (`time.monotonic()`)."""

    tokens: int
    started: float


class EngineThread(threading.Thread):
    """A thread and the engine that it calls. An abandoned one hangs; its results are dropped."""

    def __init__(self, engine: Engine, run: Callable[["EngineThread"], None], name: str) -> None:
        super().__init__(target=run, args=(self,), name=name, daemon=True)
        self.engine = engine
        self.batch: Sequence[PendingInput] = ()
        self.running: RunningBatch | None = None
        self.abandoned = False
        self.idle = False
        self.wake: SimpleQueue[None] = SimpleQueue()


class EngineThreads:
    """Feeds the engines with batches of the scheduler until it is stopped.

    `deliver` is called on the engine threads. Suspects are computed first, each alone. All methods
    are thread-safe.
    """

    def __init__(
        self,
        name: str,
        engines: EngineSet,
        scheduler: Scheduler[PendingInput],
        compute: Compute,
        probe: Callable[[], PendingInput],
        deliver: Deliver,
        suspects: Sequence[PendingInput] = (),
    ) -> None:
        self._engines, self.scheduler = engines, scheduler
        self._compute, self._probe, self._deliver = compute, probe, deliver
        self._suspects = list(suspects)
        self._lock = threading.Lock()
        self._idle: list[EngineThread] = []  # without the priority thread
        self._busy = 0  # threads that compute, without the priority thread
        self._all_threads_busy = False
        self._large_batches_from = self._all_threads_from = 0.0
        self._stopping = False
        large = len(engines.per_thread) * engines.large_batch_tokens
        self._backlogged_tokens, self._saturated_tokens = BACKLOGGED * large, SATURATED * large
        priority = () if engines.priority is None else (engines.priority,)
        self.threads = [
            EngineThread(engine, self._run, f"opengte-{name}-{i}")
            for i, engine in enumerate((*engines.per_thread, *priority))
        ]
        self._priority = self.threads[-1] if priority else None

    def start(self) -> None:
        """Start the threads."""
        for thread in self.threads:
            thread.start()

    def add(self, inputs: Sequence[PendingInput], *, urgent: bool = False) -> None:
        """Queue inputs and wake a thread; after urgent ones, batches stay small for a while."""
        with self._lock:
            now = time.monotonic()
            if urgent:
                self._large_batches_from = now + LARGE_BATCH_DELAY
            if self._busy or len(self.scheduler):
                self._all_threads_from = now + ALL_THREADS_DELAY
            for pending in inputs:
                self.scheduler.add(pending)
            self._wake_one()

    def remove(self, inputs: Sequence[PendingInput]) -> None:
        """Remove those of the inputs that still wait."""
        with self._lock:
            for pending in inputs:
                self.scheduler.remove(pending)

    def promote(self, pending: PendingInput) -> None:
        """Make a bulk input interactive."""
        with self._lock:
            self.scheduler.promote(pending)

    def stop(self) -> list[PendingInput]:
        """End each thread after its current batch; return the inputs that were waiting."""
        with self._lock:
            self._stopping = True
            waiting = self.scheduler.clear() + self._suspects
            self._suspects, self._idle = [], []
            for thread in self.threads:
                if thread.idle:
                    self._wake(thread)
        return waiting

    @property
    def active(self) -> bool:
        """Whether anything is being computed or waits."""
        return len(self.scheduler) > 0 or any(thread.batch for thread in self.threads)

    @property
    def alive(self) -> int:
        """The number of threads that have not ended."""
        return sum(thread.is_alive() for thread in self.threads)

    @property
    def stuck(self) -> int:
        """The number of abandoned threads that have not ended."""
        return sum(thread.abandoned and thread.is_alive() for thread in self.threads)

    # --- on the threads ---

    def _run(self, thread: EngineThread) -> None:
        if thread is self._priority:
            request_short_timeslice()
        engine = self._wait(thread)
        while engine is not None:
            outcome = self._compute_batch(thread, engine)
            with self._lock:
                if thread is not self._priority:
                    self._busy -= 1
                    self._all_threads_busy = False
                thread.batch = ()
                if thread.abandoned:
                    return
                engine, expired = self._take(thread)
            # Deliver only now, with the next batch in hand: the event loop may hold the interpreter
            # lock afterwards, and the engine needs it only to begin.
            self._deliver(outcome)
            del outcome
            if expired:
                self._deliver(BatchOutcome(expired, []))
            if engine is None:
                engine = self._wait(thread)

    def _wait(self, thread: EngineThread) -> Engine | None:
        """Wait for a batch; return the engine to compute it with, None when stopping."""
        while True:
            with self._lock:
                if self._stopping:
                    return None
                engine, expired = self._take(thread)
                if engine is None and not expired:
                    thread.idle = True
                    if thread is not self._priority:
                        self._idle.append(thread)
            if expired:
                self._deliver(BatchOutcome(expired, []))
            if engine is not None:
                return engine
            if not expired:
                thread.wake.get()

    def _take(self, thread: EngineThread) -> tuple[Engine | None, list[PendingInput]]:
        """Give a thread its next batch; return the engine for it, and the inputs that expired.

        The engine is None if there is nothing to compute. The caller holds the lock.
        """
        if thread is self._priority:
            return self._take_short(thread)
        if self._all_threads_busy or self._stopping:
            return None, []
        if self._suspects:
            thread.batch, expired = [self._suspects.pop()], []
            engine = thread.engine
        else:
            now = time.monotonic()
            all_threads = self._all_threads_engine(now)
            size = self._batch_tokens(now) if all_threads is None else None
            selection = self.scheduler.take(now, size)
            thread.batch, expired = selection.batch, selection.expired
            engine = thread.engine if all_threads is None else all_threads
            self._all_threads_busy = all_threads is not None and bool(thread.batch)
        if not thread.batch:
            return None, expired
        self._busy += 1
        if self._suspects or len(self.scheduler):
            self._wake_one()
        return engine, expired

    def _take_short(self, thread: EngineThread) -> tuple[Engine | None, list[PendingInput]]:
        """Take a batch for the priority thread."""
        if self._stopping or self._suspects or not self._priority_helps():
            return None, []
        now = time.monotonic()
        selection = self.scheduler.take_interactive(now, self._engines.priority_tokens)
        thread.batch = selection.batch
        return (thread.engine if thread.batch else None), selection.expired

    def _priority_helps(self) -> bool:
        return 0 < self.scheduler.interactive.tokens <= self._saturated_tokens

    def _all_threads_engine(self, now: float) -> Engine | None:
        """Return the engine with all threads if the only waiting input should be computed by it."""
        engine = self._engines.all_threads
        if engine is None or self._busy or now < self._all_threads_from:
            return None
        single = self.scheduler.single
        fits = single is not None and single.tokens <= self._engines.all_threads_tokens
        return engine if fits else None

    def _batch_tokens(self, now: float) -> int:
        """Return the size of the next batch: what waits, divided among the idle threads."""
        idle = len(self._engines.per_thread) - self._busy
        share = -(-self.scheduler.tokens // max(1, idle))
        backlogged = self.scheduler.interactive.tokens > self._backlogged_tokens
        large = backlogged or now >= self._large_batches_from
        limit = self._engines.large_batch_tokens if large else self.scheduler.policy.slice_tokens
        return min(limit, max(share, MIN_SHARE_TOKENS))

    def _wake_one(self) -> None:
        if self._idle and not self._all_threads_busy:
            self._wake(self._idle.pop())
        elif self._priority is not None and self._priority.idle and self._priority_helps():
            self._wake(self._priority)

    def _wake(self, thread: EngineThread) -> None:
        thread.idle = False
        thread.wake.put(None)

    def _compute_batch(self, thread: EngineThread, engine: Engine) -> BatchOutcome:
        try:
            return self._compute_isolated(thread, engine)
        except BaseException as error:  # a bug of this package: no request may wait for ever
            log.error("a batch was lost", exc_info=error)
            failed = FailedInput(EngineError("the batch that the input was in was lost"))
            inputs = list(thread.batch)
            return BatchOutcome(inputs, [failed] * len(inputs), engine_failure=repr(error))

    def _compute_isolated(self, thread: EngineThread, engine: Engine) -> BatchOutcome:
        inputs = thread.batch
        seconds = 0.0

        def run(part: Sequence[PendingInput]) -> list[InputResult]:
            nonlocal seconds
            started = time.monotonic()
            thread.running = RunningBatch(sum(pending.tokens for pending in part), started)
            try:
                return self._compute(engine, part)
            finally:
                seconds += time.monotonic() - started
                thread.running = None

        def probe() -> str | None:
            try:
                run([self._probe()])
            except BaseException as error:
                return f"{type(error).__name__}: {error}"
            return None

        outcomes, faults, engine_failure = isolate_failures(inputs, run, probe)
        tokens = sum(
            pending.tokens
            for pending, outcome in zip(inputs, outcomes, strict=True)
            if not isinstance(outcome, FailedInput)
        )
        return BatchOutcome(list(inputs), outcomes, tokens, seconds, faults, engine_failure)
