"""The threads that run one model's engines.

A compiled engine of n threads computes most when n engines of one thread each, the lanes, work on
batches of their own: none waits for another, so that batches can be small at no loss, and what is
urgent waits for one small batch at most. A text that is alone, and has been for a while, is
computed by all threads together.

Short interactive texts do not even wait for that: while all lanes are busy, an express lane, one
thread more than there are processors to use, computes them, and the kernel has it overtake the
others. When the queue alone makes a text wait for long, it stays out of the way; instead each
engine gets a second thread, its relief, which has the next batch there when one ends: the engine
begins it by itself, where a thread might have to wait for the interpreter first.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from opengte.engine.base import Engine
from opengte.errors import EngineError
from opengte.serve.inference.batching import isolate
from opengte.serve.inference.scheduler import Scheduler
from opengte.serve.inference.thread_priority import be_prompt
from opengte.serve.inference.types import Deliver, Failed, Flight, Outcome, Row

log = logging.getLogger(__name__)

CALM_SECONDS = 1.0  # without urgent requests, until batches are larger
LONE_SECONDS = 1.0  # without two requests at a time, until all threads compute one together
CROWD, THRONG = 1, 8  # largest batches a lane that wait: throughput counts, the queue is all
LEAST_TOKENS = 32  # of a batch, when what waits is shared out among idle lanes

Compute = Callable[[Engine, Sequence[Flight]], list[Row]]


@dataclass(frozen=True)
class Engines:
    """One engine a lane; and where there are several lanes, one that uses all threads."""

    lanes: tuple[Engine, ...]
    team: Engine | None = None
    team_tokens: int = 0  # the longest text that all threads compute together
    calm_tokens: int = 256  # of a batch while there are no urgent requests
    express: Engine | None = None
    express_tokens: int = 0  # of a batch of the express lane
    relieved: bool = False  # whether a second thread may call an engine that is busy, and waits


@dataclass(frozen=True)
class Running:
    """What a lane's engine has been computing since when."""

    flights: Sequence[Flight]
    started: float
    tokens: int


class Lane:
    """One thread of a model; mate is the other one with the same engine, where there is one."""

    def __init__(self, engine: Engine, mate: "Lane | None" = None) -> None:
        self.engine = engine
        self.mate = mate
        self.relieves = mate is not None
        self.ended = 0.0  # when its engine was last through with a batch of it
        if mate is not None:
            mate.mate = self
        self.wake: SimpleQueue[None] = SimpleQueue()
        self.batch: Sequence[Flight] = ()
        self.running: Running | None = None
        self.abandoned = False
        self.thread: threading.Thread | None = None

    def computing(self) -> tuple[Running, float] | None:
        """Return what the engine computes for this thread and since when, if it does."""
        running = self.running
        if running is None:
            return None
        others = None if self.mate is None else self.mate.running
        if others is not None and others.started < running.started:
            return None  # it waits for its mate
        return running, self.began(running)

    def began(self, running: Running) -> float:
        """Return when the engine began with it: not before it was through with the mate's."""
        return running.started if self.mate is None else max(running.started, self.mate.ended)


class Lanes:
    """Feeds the engines from the scheduler until told to stop.

    deliver is called on the lanes' threads. suspects are computed first, each alone. Methods are
    safe to call from any thread.
    """

    def __init__(
        self,
        name: str,
        engines: Engines,
        scheduler: Scheduler,
        compute: Compute,
        probe: Callable[[], Flight],
        deliver: Deliver,
        suspects: Sequence[Flight] = (),
    ) -> None:
        self._engines, self._scheduler = engines, scheduler
        self._compute, self._probe, self._deliver = compute, probe, deliver
        self._suspects = list(suspects)
        self._lock = threading.Lock()
        self._idle: list[Lane] = []
        self._busy = 0
        self._team_busy = False
        self._calm_from = self._lone_from = 0.0
        self._stopping = False
        self._lanes = len(engines.lanes)
        self._crowd, self._throng = (n * self._lanes * engines.calm_tokens for n in (CROWD, THRONG))
        self._express = Lane(engines.express) if engines.express is not None else None
        self._express_idle = False
        self._resting: list[Lane] = []  # of those that relieve
        self.lanes = [Lane(engine) for engine in engines.lanes]
        self.lanes += [Lane(lane.engine, lane) for lane in self.lanes] if engines.relieved else []
        self.lanes += [self._express] if self._express is not None else []
        for i, lane in enumerate(self.lanes):
            lane.thread = threading.Thread(
                target=self._run, args=(lane,), name=f"opengte-{name}-{i}", daemon=True
            )

    def start(self) -> None:
        """Start the threads."""
        for lane in self.lanes:
            assert lane.thread is not None
            lane.thread.start()

    def add(self, flights: Sequence[Flight], *, urgent: bool = False) -> None:
        """Queue flights and wake a lane; for some time after urgent ones, batches stay small."""
        with self._lock:
            now = time.monotonic()
            if urgent:
                self._calm_from = now + CALM_SECONDS
            if self._busy or len(self._scheduler):
                self._lone_from = now + LONE_SECONDS
            for flight in flights:
                self._scheduler.add(flight)
            self._wake_one()

    def remove(self, flights: Sequence[Flight]) -> None:
        """Take out those flights that still wait."""
        with self._lock:
            for flight in flights:
                self._scheduler.remove(flight)

    def promote(self, flight: Flight) -> None:
        """Let a bulk flight go with the interactive ones."""
        with self._lock:
            self._scheduler.promote(flight)

    def waiting(self) -> int:
        """Return the tokens that wait."""
        return self._scheduler.tokens

    def stop(self) -> list[Flight]:
        """Let each thread end after its batch; return the flights that were waiting.

        What the mate of an abandoned thread holds waits for an engine that hangs: it is among them.
        """
        with self._lock:
            self._stopping = True
            behind = [lane for lane in self.lanes if lane.mate is not None and lane.mate.abandoned]
            waiting = [item for item in self._scheduler.clear() if isinstance(item, Flight)]
            waiting += self._suspects
            for lane in behind:
                if not lane.abandoned:
                    lane.abandoned = True
                    waiting += lane.batch
            self._suspects = []
            for lane in (*self._idle, *self._resting):
                lane.wake.put(None)
            self._idle, self._resting = [], []
            self._call_express()
        return waiting

    @property
    def active(self) -> bool:
        """Return whether anything is computed or waits."""
        return len(self._scheduler) > 0 or any(lane.batch for lane in self.lanes)

    @property
    def alive(self) -> int:
        """Return how many threads have not ended."""
        return sum(lane.thread is not None and lane.thread.is_alive() for lane in self.lanes)

    @property
    def stuck(self) -> int:
        """Return how many threads were abandoned and have not ended."""
        return sum(
            lane.abandoned and lane.thread is not None and lane.thread.is_alive()
            for lane in self.lanes
        )

    # --- on the threads ---

    def _run(self, lane: Lane) -> None:
        if lane is self._express:
            be_prompt()
        engine, expired = self._wait(lane)
        while engine is not None:
            outcome = self._outcome(lane, engine)
            with self._lock:
                if lane is not self._express:
                    self._busy -= 1
                    self._team_busy = False
                lane.batch = ()
                if lane.abandoned:
                    return
                engine, expired = self._take(lane)
            # only now, with the next batch in hand: the event loop may keep the interpreter
            # busy, and the engine needs it no more than to begin
            self._deliver(outcome)
            del outcome
            if expired:
                self._deliver(Outcome(expired, []))
            if engine is None:
                engine, expired = self._wait(lane)

    def _outcome(self, lane: Lane, engine: Engine) -> Outcome:
        try:
            return self._isolated(lane, engine)
        except BaseException as error:  # a defect of ours: nobody may wait for ever
            log.error("a batch was lost", exc_info=error)
            failed = Failed(EngineError("the batch that the input was in was lost"))
            flights = list(lane.batch)
            return Outcome(flights, [failed] * len(flights), sick=repr(error))

    def _wait(self, lane: Lane) -> tuple[Engine | None, list[Flight]]:
        """Wait for a batch and take it; no engine at the end."""
        while True:
            with self._lock:
                if self._stopping:
                    return None, []
                engine, expired = self._take(lane)
                if engine is None and not expired:
                    self._rest(lane)
            if expired:
                self._deliver(Outcome(expired, []))
            if engine is not None:
                return engine, []
            if not expired:
                lane.wake.get()

    def _take(self, lane: Lane) -> tuple[Engine | None, list[Flight]]:
        """Take a batch for a lane, with the lock held; no engine when there is none to take."""
        if lane is self._express:
            return self._take_short(lane)
        if self._team_busy or self._stopping or (lane.relieves and not self._is_thronged()):
            return None, []
        if self._suspects:
            lane.batch = [self._suspects.pop()]
            engine, expired = lane.engine, []
        else:
            lone, now = self._scheduler.lone, time.monotonic()
            together = (
                self._engines.team is not None
                and not self._busy
                and now >= self._lone_from
                and lone is not None
                and lone.tokens <= self._engines.team_tokens
            )
            taken = self._scheduler.take(now, None if together else self._budget())
            lane.batch = [item for item in taken.batch if isinstance(item, Flight)]
            expired = [item for item in taken.expired if isinstance(item, Flight)]
            engine = self._engines.team if together and self._engines.team else lane.engine
            self._team_busy = together and bool(lane.batch)
        if not lane.batch:
            return None, expired
        self._busy += 1
        if self._suspects or len(self._scheduler):
            self._wake_one()
        return engine, expired

    def _take_short(self, lane: Lane) -> tuple[Engine | None, list[Flight]]:
        """Take a batch for the express lane."""
        if self._stopping or self._suspects or not self._express_helps():
            return None, []
        taken = self._scheduler.take_short(time.monotonic(), self._engines.express_tokens)
        lane.batch = [item for item in taken.batch if isinstance(item, Flight)]
        expired = [item for item in taken.expired if isinstance(item, Flight)]
        return (lane.engine if lane.batch else None), expired

    def _express_helps(self) -> bool:
        return 0 < self._scheduler.interactive_tokens <= self._throng

    def _budget(self) -> int:
        """Share what waits out among the lanes that have nothing to do."""
        free = self._lanes - self._busy
        share = -(-self._scheduler.tokens // max(1, free))
        crowded = self._scheduler.interactive_tokens > self._crowd
        calm = crowded or self._is_calm()
        most = self._engines.calm_tokens if calm else self._scheduler.policy.slice_tokens
        return min(most, max(share, LEAST_TOKENS))

    def _is_calm(self) -> bool:
        return time.monotonic() >= self._calm_from

    def _is_thronged(self) -> bool:
        """Return whether so much waits that it matters to nobody what is computed next."""
        if self._scheduler.tokens <= self._throng:
            return False
        return self._scheduler.interactive_tokens > self._throng or self._is_calm()

    def _wake_one(self) -> None:
        if self._idle and not self._team_busy:
            self._idle.pop().wake.put(None)
        elif self._resting and self._is_thronged():
            self._resting.pop().wake.put(None)
        elif self._express_helps():
            self._call_express()

    def _call_express(self) -> None:
        if self._express is not None and self._express_idle:
            self._express_idle = False
            self._express.wake.put(None)

    def _rest(self, lane: Lane) -> None:
        """Note that a lane waits to be woken."""
        if lane is self._express:
            self._express_idle = True
        elif lane.relieves:
            self._resting.append(lane)
        else:
            self._idle.append(lane)

    def _isolated(self, lane: Lane, engine: Engine) -> Outcome:
        flights = lane.batch
        seconds = 0.0

        def run(part: Sequence[Flight]) -> list[Row]:
            nonlocal seconds
            running = Running(part, time.monotonic(), sum(flight.tokens for flight in part))
            lane.running = running
            try:
                return self._compute(engine, part)
            finally:
                lane.ended = time.monotonic()
                seconds += lane.ended - lane.began(running)
                lane.running = None

        def healthy() -> str | None:
            try:
                run([self._probe()])
            except BaseException as error:
                return f"{type(error).__name__}: {error}"
            return None

        results, faults, sick = isolate(flights, run, healthy)
        tokens = sum(
            flight.tokens
            for flight, result in zip(flights, results, strict=True)
            if not isinstance(result, Failed)
        )
        return Outcome(list(flights), results, tokens, seconds, faults, sick)
