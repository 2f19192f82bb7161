"""Runs one model: its inputs in flight, the requests that wait for them, and its health.

Everything here belongs to the event loop, except tokenization in a pool and the engine threads.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
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
from opengte.serve.inference.cache import ResultCache
from opengte.serve.inference.in_flight import InFlightInputs, PendingRequest
from opengte.serve.inference.loading import PreparedModel, canary
from opengte.serve.inference.preprocessing.input_windows import (
    Lookup,
    TokenizedOrErrors,
    input_windows,
    look_up_and_tokenize,
    per_input,
)
from opengte.serve.inference.preprocessing.tokenization import (
    count_characters,
    estimate_tokens,
    tokenize_inputs,
)
from opengte.serve.inference.quarantine import Quarantine
from opengte.serve.inference.scheduling.batching import compute_batch
from opengte.serve.inference.scheduling.engine_threads import (
    EngineSet,
    EngineThread,
    EngineThreads,
    RunningBatch,
)
from opengte.serve.inference.scheduling.scheduler import Scheduler
from opengte.serve.inference.scheduling.watchdog import Watchdog
from opengte.serve.inference.types import (
    BatchOutcome,
    FailedInput,
    InputResult,
    ModelInput,
    PendingInput,
    RequestOptions,
    TokenizedInputs,
)
from opengte.serve.types import Call, Observer

log = logging.getLogger(__name__)

# Up to these sizes, inputs are tokenized on the event loop: that is faster than waking a thread.
INLINE_CHARACTERS = 2000
INLINE_INPUTS = 32
IN_FLIGHT_SLICES = 8  # batches per engine thread that one request may have in flight
# The inputs of a request count as arriving this many times more slowly than they are computed, so
# that a small request overtakes up to so many large ones (see `Scheduler`).
OVERTAKEN_REQUESTS = 10.0


class ModelRunner:
    """Computes requests with one model.

    `on_unhealthy` is called when an engine hangs or fails on every input, with the reason and the
    inputs that may be the cause.
    """

    def __init__(
        self,
        name: str,
        prepared: PreparedModel,
        *,
        batch_seconds: float,
        cache: ResultCache,
        observer: Observer,
        pool: Executor,
        on_unhealthy: "Callable[[ModelRunner, str, list[PendingInput]], None]",
    ) -> None:
        self.name, self.model = name, prepared.model
        self.policy, self.throughput = prepared.policy, prepared.throughput
        self.quarantine = Quarantine()
        self.admission = prepared.admission
        self.requests: dict[PendingRequest, None] = {}
        self.in_flight = InFlightInputs(cache, self.quarantine)
        self._batch_seconds = batch_seconds
        self._cache, self._observer, self._pool = cache, observer, pool
        self._on_unhealthy = on_unhealthy
        self._loop = asyncio.get_running_loop()
        self._failure: str | None = None  # of the engines, while they are replaced
        self._closed = False
        self._drained: asyncio.Future[None] | None = None
        self._max_tokens = max(prepared.policy.slice_tokens, prepared.engines.large_batch_tokens)
        self.short_tokens = prepared.engines.priority_tokens  # at most, of a short input
        threads = len(prepared.engines.per_thread)
        self._in_flight_limit = IN_FLIGHT_SLICES * prepared.policy.slice_tokens * threads
        self._canary = canary(prepared.model)
        self.threads = self._start_threads(prepared.engines, ())

    # --- requests ---

    async def run(
        self,
        options: RequestOptions,
        contents: Sequence[ModelInput],
        inverse: Sequence[int],
        call: Call,
        *,
        partial: bool = False,
    ) -> PendingRequest:
        """Compute distinct inputs; the request returned has a result or a failure for each.

        inverse holds, for each input of the request, the index of its distinct input. Raises the
        first failure unless partial, DeadlineError, and OverloadedError.
        """
        model = self.model
        max_length = model.card.max_length
        if isinstance(model, Encoder):
            max_length = model.length_limit(options.role)
        request = PendingRequest(
            inverse, len(contents), call, max_length, partial=partial, strict=options.strict
        )
        self.requests[request] = None
        timer = self._deadline_timer(request)
        try:
            for start, stop in input_windows(contents):
                self._submit(request, options, contents, start, stop)
                if request.done.done():
                    break
                await request.wait_for_capacity(self._in_flight_limit)
            await request.done
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
            self._leave(request)
        return request

    def _deadline_timer(self, request: PendingRequest) -> asyncio.TimerHandle | None:
        if request.deadline is None:
            return None
        left = request.deadline - time.monotonic()
        if left <= 0:
            request.expire()
        return self._loop.call_later(max(0.0, left), request.expire)

    def _submit(
        self,
        request: PendingRequest,
        options: RequestOptions,
        contents: Sequence[ModelInput],
        start: int,
        stop: int,
    ) -> None:
        """Answer a window of inputs from the cache or from inputs in flight; submit the others."""
        if request.done.done():
            return
        new = [
            pending
            for index in range(start, stop)
            if (pending := self._look_up(request, options, index, contents[index])) is not None
        ]
        if request.done.done():
            return
        self._reserve(request, new, contents, stop)
        for pending in new:
            self.in_flight.add(pending)
            delay = OVERTAKEN_REQUESTS * request.submitted_tokens / self.throughput.total_rate
            pending.arrived = request.started + delay
            request.submitted_tokens += pending.tokens
            self.in_flight.join(request, pending, pending.waiters.pop()[1])
        interactive = request.priority == "interactive" and start == 0 and stop == len(contents)
        request.urgent = interactive and request.in_flight_tokens <= self.policy.slice_tokens
        if new:
            self._tokenize(options, new)

    def _reserve(
        self,
        request: PendingRequest,
        new: list[PendingInput],
        contents: Sequence[ModelInput],
        stop: int,
    ) -> None:
        """Admit a request with its first window; later ones use up what it has reserved."""
        tokens = sum(pending.tokens for pending in new)
        if request.reservation is None and (new or stop < len(contents)):
            limit = self.model.card.max_length
            request.unsubmitted_tokens = sum(
                estimate_tokens(content, limit) for content in contents[stop:]
            )
            needed = tokens + request.unsubmitted_tokens
            request.reservation = self.admission.admit(needed, request.priority)
        elif request.unsubmitted_tokens:
            request.unsubmitted_tokens -= tokens

    def _look_up(
        self, request: PendingRequest, options: RequestOptions, index: int, content: ModelInput
    ) -> PendingInput | None:
        """Settle an input that needs no work of its own; return a pending input for any other."""
        key = options.key(content)
        reason = self.quarantine.reason(key)
        if reason is not None:
            self._observer.count("refused_poison", self.name)
            request.set_failure(index, InputError(f"the input is refused: {reason}"))
            return None
        result = self._cache.memory.get(key) if options.cached else None
        if result is not None:
            self._observer.count("cache_hit", self.name)
            request.shared += 1
            request.set_result(index, result)
            return None
        pending = self.in_flight.get(key)
        if pending is None:
            tokens = estimate_tokens(content, self.model.card.max_length)
            pending = PendingInput(tokens, options.outputs, request.priority, request.deadline,
                                   options=options, content=content, key=key)  # fmt: skip
            pending.waiters.append((request, index))
            return pending
        self._observer.count("duplicate", self.name)
        request.shared += 1
        if request.priority == "interactive" and pending.priority == "bulk":
            self.threads.promote(pending)
        self.in_flight.join(request, pending, index)
        return None

    def _leave(self, request: PendingRequest) -> None:
        """Drop a request, and the inputs for which no other request waits."""
        del self.requests[request]
        orphans = self.in_flight.leave(request)
        if orphans:
            self.threads.remove(orphans)
        if request.done.done() and not request.done.cancelled():
            request.done.exception()  # marks it as retrieved: it was raised, or nobody waits for it
        if self._drained is not None and not self.requests and not self._drained.done():
            self._drained.set_result(None)

    # --- tokenization ---

    def _tokenize(self, options: RequestOptions, inputs: list[PendingInput]) -> None:
        """Tokenize inputs, inline if that is quick, otherwise in a thread; then queue them."""
        few = len(inputs) <= INLINE_INPUTS and self._cache.disk is None
        if few and sum(count_characters(each.content) for each in inputs) <= INLINE_CHARACTERS:
            started = time.perf_counter()
            contents = [pending.content for pending in inputs]
            tokenized = tokenize_inputs(self.model, options, contents)
            self._enqueue(inputs, tokenized, time.perf_counter() - started)
            return
        future = self._loop.run_in_executor(
            self._pool, look_up_and_tokenize, self.model, self._cache.disk, options, inputs
        )
        future.add_done_callback(lambda done: self._on_lookup(inputs, done))

    def _on_lookup(self, inputs: list[PendingInput], done: "asyncio.Future[Lookup]") -> None:
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None:
            log.error("inputs could not be tokenised", exc_info=error)
            failed = FailedInput(EngineError("the input could not be tokenised"))
            for pending in inputs:
                self.in_flight.finish(pending, failed)
            return
        results, misses, tokenized, seconds = done.result()
        for pending in inputs:
            if pending.key in results:
                self._observer.count("cache_hit", self.name)
                for request, _ in pending.waiters:
                    request.shared += 1
                self._cache.memory.put(pending.key, results[pending.key])
                self.in_flight.finish(pending, results[pending.key])
        if misses:
            self._enqueue(misses, tokenized, seconds)

    def _enqueue(
        self, inputs: list[PendingInput], tokenized: TokenizedOrErrors, seconds: float
    ) -> None:
        """Queue tokenized inputs for the engine threads."""
        self._observer.count("cache_miss", self.name, len(inputs))
        for request in _waiting_requests(inputs):
            request.tokenizing += seconds
        ready = []
        for pending, (tokens, index) in zip(inputs, per_input(tokenized, len(inputs)), strict=True):
            if isinstance(tokens, InputError):
                self.in_flight.finish(pending, FailedInput(tokens))
            elif pending.waiters and self._set_tokens(pending, tokens, index):
                ready.append(pending)
        if self._failure is not None:
            for pending in ready:
                self.in_flight.finish(pending, FailedInput(self._not_ready()))
        elif ready:
            urgent = any(request.urgent for request, _ in ready[0].waiters)
            self.threads.add(ready, urgent=urgent)
            self._watchdog.arm()

    def _set_tokens(self, pending: PendingInput, tokenized: TokenizedInputs, index: int) -> bool:
        """Set the tokens of an input; return whether any request still waits for it."""
        batch = tokenized.batch
        first, last = int(batch.cu_seqlens[index]), int(batch.cu_seqlens[index + 1])
        tokens = last - first
        for request, _ in pending.waiters:
            request.add_in_flight(tokens - pending.tokens)
        pending.tokens, pending.original_length = tokens, tokenized.original_lengths[index]
        pending.at_least = index in tokenized.partial
        short = tokens <= self.short_tokens and pending.priority == "interactive"
        pending.kind = pending.options.outputs, short  # short inputs are not batched with long ones
        pending.ids, pending.type_ids = batch.ids[first:last], batch.type_ids[first:last]
        pending.pool_from = int(batch.pool_from[index])
        if batch.attended is not None:
            pending.attended = int(batch.attended[index])
        if pending.original_length > tokens and any(each.strict for each, _ in pending.waiters):
            self.in_flight.fail_strict(pending)
        return bool(pending.waiters)

    # --- results ---

    def _deliver(self, outcome: BatchOutcome) -> None:
        """Pass an outcome from an engine thread to the event loop."""
        try:
            self._loop.call_soon_threadsafe(self._on_outcome, outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _on_outcome(self, batch: BatchOutcome) -> None:
        if not batch.outcomes:
            late = FailedInput(DeadlineError("the deadline passed before the input was computed"))
            for pending in batch.inputs:
                self.in_flight.finish(pending, late)
            return
        if batch.tokens and batch.seconds:
            self.throughput.record(batch.tokens, batch.seconds)
        size = len(batch.inputs)
        self._observer.batch(self.name, size, batch.tokens, self._max_tokens, batch.seconds)
        self._observer.count("tokens", self.name, batch.tokens)
        if batch.faults:
            self._observer.count("engine_fault", self.name, batch.faults)
        for request in _waiting_requests(batch.inputs):
            request.computing += batch.seconds
        for pending, outcome in zip(batch.inputs, batch.outcomes, strict=True):
            self.in_flight.finish(pending, outcome)
        if batch.engine_failure is not None and self._failure is None:
            self._replace_engines(f"the engine fails on any input: {batch.engine_failure}", [])

    # --- health ---

    async def check(self, seconds: float) -> None:
        """Compute a known text, ahead of everything that waits.

        Raises NotReadyError if that fails or takes longer than seconds.
        """
        if self._failure is not None:
            raise self._not_ready()
        request = PendingRequest((0,), 1, Call("check"), max_length=1 << 30)
        pending = self._canary()
        pending.waiters.append((request, 0))
        request.inputs[pending] = None
        self.requests[request] = None
        request.add_in_flight(pending.tokens)
        self.threads.add([pending])
        self._watchdog.arm()
        try:
            async with asyncio.timeout(seconds):
                await request.done
        except TimeoutError:
            raise NotReadyError(
                f"`{self.name}` did not answer a test text within {seconds:.0f} seconds", 1.0
            ) from None
        except OpenGTEError as error:
            raise NotReadyError(f"`{self.name}` fails on a test text: {error}", 1.0) from error
        finally:
            self._leave(request)

    def _on_hang(self, thread: EngineThread, running: RunningBatch) -> None:
        """Replace the engines; the inputs of the batch that hangs are computed again, each alone.

        An input that hangs alone is quarantined.
        """
        self._observer.count("engine_fault", self.name)
        seconds = time.monotonic() - running.started
        reason = f"a batch of {running.tokens} tokens has not ended after {seconds:.1f} seconds"
        suspects = []
        for pending in thread.batch:
            if pending.suspect or pending.key is None:
                failed = FailedInput(EngineError(reason), quarantine=pending.suspect)
                self.in_flight.finish(pending, failed)
            elif pending.waiters:
                pending.suspect = True
                suspects.append(pending)
        self._replace_engines(reason, suspects)

    def _replace_engines(self, reason: str, suspects: list[PendingInput]) -> None:
        """Stop the engine threads; inputs that wait fail, but suspects wait for new engines."""
        self._failure = reason
        failed = FailedInput(self._not_ready())
        for pending in self.threads.stop():
            if pending.suspect:
                suspects.append(pending)
            else:
                self.in_flight.finish(pending, failed)
        self._on_unhealthy(self, reason, suspects)

    def _not_ready(self) -> NotReadyError:
        return NotReadyError(f"`{self.name}` does not answer: {self._failure}", retry_after=5.0)

    def resume(
        self, model: Encoder | Reranker, engines: EngineSet, suspects: list[PendingInput]
    ) -> None:
        """Go on with new engines of the same model; suspects are computed first, each alone."""
        if self._closed:
            self.fail_suspects(suspects)
            return
        self.model, self._failure = model, None
        wanted = [pending for pending in suspects if pending.waiters]
        self.threads = self._start_threads(engines, wanted)
        self._watchdog.arm()

    def fail_suspects(self, suspects: list[PendingInput]) -> None:
        """Fail inputs that waited for new engines, because there will be none."""
        for pending in suspects:
            self.in_flight.finish(pending, FailedInput(self._not_ready()))

    async def drain(self, seconds: float | None) -> bool:
        """Wait until all requests are done, then end the threads; return False on a timeout."""
        self._drained = self._loop.create_future()
        if not self.requests:
            self._drained.set_result(None)
        try:
            async with asyncio.timeout(seconds):
                await self._drained
        except TimeoutError:
            for request in list(self.requests):
                request.fail(NotReadyError(f"`{self.name}` is shutting down", retry_after=5.0))
        finished = not self.requests
        for pending in self.threads.stop():
            shutdown = NotReadyError(f"`{self.name}` is shutting down", 5.0)
            self.in_flight.finish(pending, FailedInput(shutdown))
        self._watchdog.stop()
        self._closed = True
        return finished

    def _start_threads(self, engines: EngineSet, suspects: Sequence[PendingInput]) -> EngineThreads:
        model = self.model

        def compute(engine: Engine, inputs: Sequence[PendingInput]) -> list[InputResult]:
            return compute_batch(model, engine, inputs)

        scheduler: Scheduler[PendingInput] = Scheduler(self.policy)
        threads = EngineThreads(
            self.name, engines, scheduler, compute, self._canary, self._deliver, suspects
        )
        self._watchdog = Watchdog(threads, self.throughput, self._batch_seconds, self._on_hang)
        threads.start()
        return threads


def _waiting_requests(inputs: Sequence[PendingInput]) -> Iterable[PendingRequest]:
    """Return the distinct requests that wait for the inputs."""
    return {id(request): request for each in inputs for request, _ in each.waiters}.values()
