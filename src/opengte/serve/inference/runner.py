"""One loaded model at work: what is in flight, who waits for it, and what its engines did.

Everything here lives on the event loop, but for tokenising in a pool and the lanes' threads.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from opengte.encoder import Encoder, Reranker
from opengte.engine.base import Engine
from opengte.errors import (
    DeadlineError,
    EngineError,
    InputError,
    NotReadyError,
    OpenGTEError,
    OverloadedError,
)
from opengte.serve.inference.batching import compute
from opengte.serve.inference.cache import Cache
from opengte.serve.inference.input_windows import Found, LookedUp, each, look_up, windows
from opengte.serve.inference.jobs import Job, too_long
from opengte.serve.inference.loading import Opened, canary
from opengte.serve.inference.quarantine import Poison
from opengte.serve.inference.scheduler import Scheduler
from opengte.serve.inference.tokenization import characters, estimate, tokenise
from opengte.serve.inference.types import (
    Failed,
    Flight,
    Outcome,
    Result,
    Row,
    Sequences,
    Source,
    Spec,
)
from opengte.serve.inference.watchdog import Watch
from opengte.serve.inference.workers import Engines, Lane, Lanes, Running
from opengte.serve.types import Call, Observer

log = logging.getLogger(__name__)

INLINE_CHARACTERS = 2000  # tokenised faster than a thread is woken
INLINE_TEXTS = 32
WINDOW_SLICES = 8  # batches a lane that one request may have under way
CROWD = 10.0  # requests of any size that a small one overtakes, see `Scheduler`


class Runner:
    """Answers jobs with one model.

    on_trouble is called when an engine hangs or fails on everything, with the reason and the
    flights that may be to blame.
    """

    def __init__(
        self,
        name: str,
        opened: Opened,
        *,
        batch_seconds: float,
        cache: Cache,
        observer: Observer,
        pool: Executor,
        on_trouble: "Callable[[Runner, str, list[Flight]], None]",
    ) -> None:
        self.name, self.model = name, opened.model
        self.policy, self.pace = opened.policy, opened.pace
        self.poison = Poison()
        self.backlog = opened.backlog
        self.jobs: dict[Job, None] = {}
        self._batch_seconds = batch_seconds
        self._cache, self._observer, self._pool = cache, observer, pool
        self._on_trouble = on_trouble
        self._loop = asyncio.get_running_loop()
        self._flights: dict[bytes, Flight] = {}
        self.last_success = 0.0
        self._sick: str | None = None
        self._closed = False
        self._idle: asyncio.Future[None] | None = None
        self._most = max(opened.policy.slice_tokens, opened.engines.calm_tokens)
        self._short = opened.engines.express_tokens  # the most that such a text has
        lanes = len(opened.engines.lanes)
        self._window_tokens = WINDOW_SLICES * opened.policy.slice_tokens * lanes
        self._canary = canary(opened.model)
        self.lanes = self._start(opened.engines, ())

    # --- requests ---

    async def run(
        self,
        spec: Spec,
        sources: Sequence[Source],
        inverse: Sequence[int],
        call: Call,
        *,
        partial: bool,
        strict: bool,
    ) -> Job:
        """Compute distinct inputs; the job has a row or a failure for each.

        inverse says which of them each input of the request is. Raises the first failure when it
        is not partial, and DeadlineError or OverloadedError.
        """
        job = Job(
            inverse,
            len(sources),
            call.priority,
            call.deadline,
            partial=partial,
            strict=strict,
            max_length=self.model.card.max_length,
        )
        self.jobs[job] = None
        timer = self._timer(job)
        try:
            for start, stop in windows(sources):
                self._enter(job, spec, sources, start, stop)
                if job.done.done():
                    break
                await job.room(self._window_tokens)
            await job.done
        except asyncio.CancelledError:
            self._observer.count("cancelled", self.name)
            raise
        except DeadlineError:
            self._observer.count("expired", self.name)
            raise
        except OverloadedError:
            self._observer.count("refused_overload", self.name)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._leave(job)
        return job

    def _timer(self, job: Job) -> asyncio.TimerHandle | None:
        if job.deadline is None:
            return None
        left = job.deadline - time.monotonic()
        if left <= 0:
            job.expire()
        return self._loop.call_later(max(0.0, left), job.expire)

    def _enter(
        self, job: Job, spec: Spec, sources: Sequence[Source], start: int, stop: int
    ) -> None:
        """Answer inputs from the cache or from flights under way; start flights for the others."""
        if job.done.done():
            return
        fresh = [
            flight
            for place in range(start, stop)
            if (flight := self._known(job, spec, place, sources[place])) is not None
        ]
        if job.done.done():
            return
        if job.ticket is None and (fresh or stop < len(sources)):
            limit = self.model.card.max_length
            job.rest_tokens = sum(estimate(source, limit) for source in sources[stop:])
            needed = sum(flight.tokens for flight in fresh) + job.rest_tokens
            job.ticket = self.backlog.admit(needed, job.priority)
        elif job.rest_tokens:
            job.rest_tokens -= sum(flight.tokens for flight in fresh)
        for flight in fresh:
            assert flight.key is not None
            self._flights[flight.key] = flight
            flight.arrived = job.started + CROWD * job.sent_tokens / self.pace.drain_rate
            job.sent_tokens += flight.tokens
            self._join(job, flight, flight.waiters.pop()[1])
        whole = start == 0 and stop == len(sources) and job.priority == "interactive"
        job.urgent = whole and job.open_tokens <= self.policy.slice_tokens
        if fresh:
            self._prepare(spec, fresh)

    def _known(self, job: Job, spec: Spec, place: int, source: Source) -> Flight | None:
        """Settle an input that needs no work of its own; return a new flight for any other."""
        key = spec.key(source)
        reason = self.poison.reason(key)
        if reason is not None:
            self._observer.count("refused_poison", self.name)
            job.failed(place, InputError(f"the input is refused: {reason}"))
            return None
        row = self._cache.get(key) if spec.cached else None
        if row is not None:
            self._observer.count("cache_hit", self.name)
            job.shared += 1
            job.arrived(place, row)
            return None
        flight = self._flights.get(key)
        if flight is None:
            tokens = estimate(source, self.model.card.max_length)
            flight = Flight(tokens, spec.outputs, job.priority, job.deadline, spec=spec,
                            source=source, key=key)  # fmt: skip
            flight.waiters.append((job, place))
            return flight
        self._observer.count("duplicate", self.name)
        job.shared += 1
        self._join(job, flight, place)
        return None

    def _join(self, job: Job, flight: Flight, place: int) -> None:
        if flight.waiters:  # somebody else's: it must be ready in time for both
            if job.priority == "interactive" and flight.priority == "bulk":
                self.lanes.promote(flight)
            if job.deadline is None or flight.deadline is None:
                flight.deadline = None
            else:
                flight.deadline = max(job.deadline, flight.deadline)
        flight.waiters.append((job, place))
        job.flights[flight] = None
        job.open(flight.tokens)

    def _leave(self, job: Job) -> None:
        """Forget a job, and the flights that nobody else waits for."""
        del self.jobs[job]
        orphans = []
        for flight in job.flights:
            flight.waiters = [waiter for waiter in flight.waiters if waiter[0] is not job]
            if not flight.waiters:
                self._forget(flight)
                orphans.append(flight)
        if orphans:
            self.lanes.remove(orphans)
        job.flights.clear()
        job.rest_tokens = 0
        job.open(-job.open_tokens)
        if job.done.done() and not job.done.cancelled():
            job.done.exception()  # it is raised already, or nobody is there to see it
        if self._idle is not None and not self.jobs and not self._idle.done():
            self._idle.set_result(None)

    def _forget(self, flight: Flight) -> None:
        if flight.key is not None and self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    # --- tokenising ---

    def _prepare(self, spec: Spec, flights: list[Flight]) -> None:
        """Tokenise flights, here when that is quick, otherwise in a thread; then queue them."""
        small = len(flights) <= INLINE_TEXTS and self._cache.disk is None
        if small and sum(characters(flight.source) for flight in flights) <= INLINE_CHARACTERS:
            started = time.perf_counter()
            found = tokenise(self.model, spec, [flight.source for flight in flights])
            self._prepared(flights, found, time.perf_counter() - started)
            return
        future = self._loop.run_in_executor(
            self._pool, look_up, self.model, self._cache.disk, spec, flights
        )
        future.add_done_callback(lambda done: self._from_pool(flights, done))

    def _from_pool(self, flights: list[Flight], done: "asyncio.Future[LookedUp]") -> None:
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None:
            log.error("inputs could not be tokenised", exc_info=error)
            failed = Failed(EngineError("the input could not be tokenised"))
            for flight in flights:
                self._finish(flight, failed)
            return
        rows, rest, found, seconds = done.result()
        for flight in flights:
            if flight.key in rows:
                self._observer.count("cache_hit", self.name)
                for job, _ in flight.waiters:
                    job.shared += 1
                self._cache.keep(flight.key, rows[flight.key])
                self._finish(flight, rows[flight.key])
        if rest:
            self._prepared(rest, found, seconds)

    def _prepared(self, flights: list[Flight], found: Found, seconds: float) -> None:
        self._observer.count("cache_miss", self.name, len(flights))
        for job in {id(job): job for flight in flights for job, _ in flight.waiters}.values():
            job.tokenizing += seconds
        ready = []
        for flight, (sequences, place) in zip(flights, each(found, len(flights)), strict=True):
            if isinstance(sequences, InputError):
                self._finish(flight, Failed(sequences))
            elif flight.waiters and self._fill(flight, sequences, place):
                ready.append(flight)
        if self._sick is not None:
            for flight in ready:
                self._finish(flight, Failed(self._not_ready()))
        elif ready:
            self.lanes.add(ready, urgent=any(job.urgent for job, _ in ready[0].waiters))
            self._watch.arm()

    def _fill(self, flight: Flight, sequences: Sequences, place: int) -> bool:
        """Give a flight its tokens; return whether anybody still wants it."""
        batch = sequences.batch
        first, last = int(batch.cu_seqlens[place]), int(batch.cu_seqlens[place + 1])
        tokens = last - first
        for job, _ in flight.waiters:
            job.open(tokens - flight.tokens)
        flight.tokens, flight.found = tokens, sequences.found[place]
        short = tokens <= self._short and flight.priority == "interactive"
        flight.kind = flight.spec.outputs, short  # a query does not wait for the text beside it
        flight.ids, flight.type_ids = batch.ids[first:last], batch.type_ids[first:last]
        flight.pool_from = int(batch.pool_from[place])
        if flight.found > tokens and any(job.strict for job, _ in flight.waiters):
            self._refuse_long(flight)
        return bool(flight.waiters)

    def _refuse_long(self, flight: Flight) -> None:
        """Tell those who want no truncation; the others may still wait for the flight."""
        strict = [waiter for waiter in flight.waiters if waiter[0].strict]
        flight.waiters = [waiter for waiter in flight.waiters if not waiter[0].strict]
        for job, place in strict:
            job.flights.pop(flight, None)
            job.failed(place, too_long(flight.found, job.max_length))
            job.open(-flight.tokens)
        if not flight.waiters:
            self._forget(flight)

    # --- results ---

    def _from_lane(self, outcome: Outcome) -> None:
        """Take an outcome from a lane's thread to the event loop."""
        try:
            self._loop.call_soon_threadsafe(self._delivered, outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _delivered(self, outcome: Outcome) -> None:
        if not outcome.results:
            late = Failed(DeadlineError("the deadline passed before the input was computed"))
            for flight in outcome.flights:
                self._finish(flight, late)
            return
        if outcome.tokens and outcome.seconds:
            self.pace.measured(outcome.tokens, outcome.seconds)
            self.last_success = time.monotonic()
        texts = len(outcome.flights)
        self._observer.batch(self.name, texts, outcome.tokens, self._most, outcome.seconds)
        self._observer.count("tokens", self.name, outcome.tokens)
        if outcome.faults:
            self._observer.count("engine_fault", self.name, outcome.faults)
        touched = {id(job): job for flight in outcome.flights for job, _ in flight.waiters}
        for job in touched.values():
            job.computing += outcome.seconds
        for flight, result in zip(outcome.flights, outcome.results, strict=True):
            self._finish(flight, result)
        if outcome.sick is not None and self._sick is None:
            self._trouble(f"the engine fails on any input: {outcome.sick}", [])

    def _finish(self, flight: Flight, result: Result) -> None:
        """Hand a result to everybody who waits for it, and remember it."""
        if flight.done:
            return
        flight.done = True
        self._forget(flight)
        if isinstance(result, Failed):
            if result.poison and flight.key is not None:
                self.poison.add(flight.key, f"{result.error}, some time ago")
        elif flight.key is not None and flight.spec.cached:
            self._cache.put(flight.key, result)
        for job, place in flight.waiters:
            job.flights.pop(flight, None)
            if isinstance(result, Failed):
                job.failed(place, result.error)
            else:
                job.arrived(place, result)
            job.open(-flight.tokens)
        flight.waiters = []

    # --- health ---

    async def check(self, seconds: float) -> None:
        """Run the model on a known text, before all that waits; NotReadyError when it fails."""
        if self._sick is not None:
            raise self._not_ready()
        job = Job((0,), 1, "interactive", None, partial=False, strict=False, max_length=1 << 30)
        flight = self._canary()
        flight.waiters.append((job, 0))
        job.flights[flight] = None
        self.jobs[job] = None
        job.open(flight.tokens)
        self.lanes.add([flight])
        self._watch.arm()
        try:
            async with asyncio.timeout(seconds):
                await job.done
        except TimeoutError:
            raise NotReadyError(
                f"`{self.name}` did not answer a test text within {seconds:.0f} seconds", 1.0
            ) from None
        except OpenGTEError as error:
            raise NotReadyError(f"`{self.name}` fails on a test text: {error}", 1.0) from error
        finally:
            self._leave(job)

    def _hung(self, lane: Lane, running: Running) -> None:
        """Give up a lane; what it computed is computed again, each input alone."""
        self._observer.count("engine_fault", self.name)
        seconds = time.monotonic() - running.started
        reason = f"a batch of {running.tokens} tokens has not ended after {seconds:.1f} seconds"
        suspects = []
        for flight in lane.batch:
            if flight.suspect or flight.key is None:
                self._finish(flight, Failed(EngineError(reason), poison=flight.suspect))
            elif flight.waiters:
                flight.suspect = True
                suspects.append(flight)
        self._trouble(reason, suspects)

    def _trouble(self, reason: str, suspects: list[Flight]) -> None:
        """Stop the lanes; all that waits fails, but suspects wait for new engines."""
        self._sick = reason
        failed = Failed(self._not_ready())
        for flight in self.lanes.stop():
            if flight.suspect:
                suspects.append(flight)
            else:
                self._finish(flight, failed)
        self._on_trouble(self, reason, suspects)

    def _not_ready(self) -> NotReadyError:
        return NotReadyError(f"`{self.name}` does not answer: {self._sick}", retry_after=5.0)

    def revive(self, model: Encoder | Reranker, engines: Engines, suspects: list[Flight]) -> None:
        """Go on with new engines of the same model."""
        if self._closed:
            self.give_up(suspects)
            return
        self.model, self._sick = model, None
        wanted = [flight for flight in suspects if flight.waiters]
        self.lanes = self._start(engines, wanted)
        self._watch.arm()

    def give_up(self, suspects: list[Flight]) -> None:
        """Fail flights that waited for new engines in vain."""
        for flight in suspects:
            self._finish(flight, Failed(self._not_ready()))

    @property
    def queued_tokens(self) -> int:
        """Tokens of accepted requests that are not computed yet."""
        return self.backlog.tokens

    async def drain(self, seconds: float | None) -> bool:
        """Wait until all jobs are done, then end the threads; False when time ran out."""
        self._idle = self._loop.create_future()
        if not self.jobs:
            self._idle.set_result(None)
        try:
            async with asyncio.timeout(seconds):
                await self._idle
        except TimeoutError:
            for job in list(self.jobs):
                job.fail(NotReadyError(f"`{self.name}` is shutting down", retry_after=5.0))
        finished = not self.jobs
        for flight in self.lanes.stop():
            self._finish(flight, Failed(NotReadyError(f"`{self.name}` is shutting down", 5.0)))
        self._watch.stop()
        self._closed = True
        return finished

    def _start(self, engines: Engines, suspects: Sequence[Flight]) -> Lanes:
        model = self.model

        def run(engine: Engine, flights: Sequence[Flight]) -> list[Row]:
            return compute(model, engine, flights)

        scheduler = Scheduler(self.policy)
        lanes = Lanes(self.name, engines, scheduler, run, self._canary, self._from_lane, suspects)
        self._watch = Watch(lanes, self.pace, self._batch_seconds, self._hung)
        lanes.start()
        return lanes
