"""Requests in flight, and the distinct inputs for which they wait."""

import asyncio
import time
from collections.abc import Sequence

from opengte.errors import DeadlineError, InputError, OpenGTEError, ServiceError, TruncationError
from opengte.serve.inference.cache import ResultCache
from opengte.serve.inference.quarantine import Quarantine
from opengte.serve.inference.scheduling.admission import Reservation
from opengte.serve.inference.types import FailedInput, InputOutcome, InputResult, PendingInput
from opengte.serve.types import Call, Timing


class PendingRequest:
    """The state of one request; belongs to the event loop.

    inverse: for each input of the request, the index of its distinct input.
    partial: failures stay with their input; otherwise the first one fails the request, as does any
        failure that is not about the input.
    strict: an input that was truncated is a failure.
    """

    def __init__(
        self,
        inverse: Sequence[int],
        count: int,
        call: Call,
        max_length: int,
        *,
        partial: bool = False,
        strict: bool = False,
    ) -> None:
        self.inverse = inverse
        self.results: list[InputResult | None] = [None] * count
        self.failures: dict[int, OpenGTEError] = {}
        self.priority, self.deadline = call.priority, call.deadline
        self.partial, self.strict, self.max_length = partial, strict, max_length
        self.inputs: dict[PendingInput, None] = {}  # in flight
        self.reservation: Reservation | None = None
        self.remaining = count
        # Tokens; estimates until an input is tokenized.
        self.in_flight_tokens = 0
        self.unsubmitted_tokens = 0
        self.submitted_tokens = 0
        self.urgent = False  # small and interactive
        self.shared = 0  # inputs answered from the cache or together with another request
        self.computing = self.tokenizing = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if count == 0:
            self.done.set_result(None)
        self._capacity: asyncio.Future[None] | None = None
        self.started = time.monotonic()

    @property
    def timing(self) -> Timing:
        """The time spent in each stage so far."""
        total = time.monotonic() - self.started
        queued = max(0.0, total - self.tokenizing - self.computing)
        return Timing(self.tokenizing, queued, self.computing)

    def set_result(self, index: int, result: InputResult) -> None:
        """Set the result of one distinct input."""
        if self.strict and result.original_length > result.length:
            self.set_failure(index, too_long(result, self.max_length))
            return
        self.results[index] = result
        self._count_down()

    def set_failure(self, index: int, error: OpenGTEError) -> None:
        """Set the failure of one distinct input."""
        self.failures[index] = error
        if not self.partial or isinstance(error, ServiceError):
            self.fail(with_index(self.inverse.index(index), error))
        self._count_down()

    def fail(self, error: OpenGTEError) -> None:
        """Fail the whole request."""
        if not self.done.done():
            self.done.set_exception(error)
        self._wake()

    def expire(self) -> None:
        """Fail the request because its deadline passed."""
        self.fail(DeadlineError("the request's deadline passed before it was computed"))

    def add_in_flight(self, tokens: int) -> None:
        """Count tokens that are now in flight or, if negative, no longer."""
        self.in_flight_tokens += tokens
        if self.reservation is not None:
            self.reservation.resize(self.in_flight_tokens + self.unsubmitted_tokens)
        if tokens < 0:
            self._wake()

    async def wait_for_capacity(self, limit: int) -> None:
        """Wait until fewer than limit tokens are in flight, or the request is done."""
        while self.in_flight_tokens >= limit and not self.done.done():
            self._capacity = asyncio.get_running_loop().create_future()
            await self._capacity

    def _wake(self) -> None:
        if self._capacity is not None and not self._capacity.done():
            self._capacity.set_result(None)

    def _count_down(self) -> None:
        self.remaining -= 1
        if self.remaining == 0 and not self.done.done():
            self.done.set_result(None)


class InFlightInputs:
    """The inputs in flight: equal inputs are computed once, for all requests that wait for them.

    Belongs to the event loop.
    """

    def __init__(self, cache: ResultCache, quarantine: Quarantine) -> None:
        self._cache, self._quarantine = cache, quarantine
        self._by_key: dict[bytes, PendingInput] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: bytes) -> PendingInput | None:
        """Return the input in flight with that key."""
        return self._by_key.get(key)

    def add(self, pending: PendingInput) -> None:
        """Add an input that is about to be computed."""
        assert pending.key is not None
        self._by_key[pending.key] = pending

    def join(self, request: PendingRequest, pending: PendingInput, index: int) -> None:
        """Let a request wait for an input, which must be in time for all that wait for it."""
        if request.deadline is None or pending.deadline is None:
            pending.deadline = None
        else:
            pending.deadline = max(request.deadline, pending.deadline)
        pending.waiters.append((request, index))
        request.inputs[pending] = None
        request.add_in_flight(pending.tokens)

    def leave(self, request: PendingRequest) -> list[PendingInput]:
        """Drop a request; return the inputs for which no other request waits."""
        orphans = []
        for pending in request.inputs:
            pending.waiters = [waiter for waiter in pending.waiters if waiter[0] is not request]
            if not pending.waiters:
                self._remove(pending)
                orphans.append(pending)
        request.inputs.clear()
        request.unsubmitted_tokens = 0
        request.add_in_flight(-request.in_flight_tokens)
        return orphans

    def fail_strict(self, pending: PendingInput) -> None:
        """Fail a truncated input for the strict requests; others may still wait for it."""
        strict = [waiter for waiter in pending.waiters if waiter[0].strict]
        pending.waiters = [waiter for waiter in pending.waiters if not waiter[0].strict]
        for request, index in strict:
            request.inputs.pop(pending, None)
            request.set_failure(index, too_long(pending, request.max_length))
            request.add_in_flight(-pending.tokens)
        if not pending.waiters:
            self._remove(pending)

    def finish(self, pending: PendingInput, outcome: InputOutcome) -> None:
        """Give an outcome to every request that waits for the input; cache or quarantine it."""
        if pending.done:
            return
        pending.done = True
        self._remove(pending)
        if isinstance(outcome, FailedInput):
            if outcome.quarantine and pending.key is not None:
                self._quarantine.add(pending.key, f"{outcome.error}, some time ago")
        elif pending.key is not None and pending.options.cached:
            self._cache.put(pending.key, outcome)
        for request, index in pending.waiters:
            request.inputs.pop(pending, None)
            if isinstance(outcome, FailedInput):
                request.set_failure(index, outcome.error)
            else:
                request.set_result(index, outcome)
            request.add_in_flight(-pending.tokens)
        pending.waiters = []

    def _remove(self, pending: PendingInput) -> None:
        if pending.key is not None and self._by_key.get(pending.key) is pending:
            del self._by_key[pending.key]


def too_long(read: InputResult | PendingInput, limit: int) -> TruncationError:
    """Return the error for an input that is too long where truncation is an error."""
    bound = "at least " if read.at_least else ""
    return TruncationError(
        f"the input has {bound}{read.original_length} tokens, more than max_length = {limit}. "
        "Shorten or split it, or let it be truncated at the right or the left."
    )


def with_index(index: int, error: OpenGTEError) -> OpenGTEError:
    """Return an error about one input with the index of the input in its text."""
    if isinstance(error, TruncationError | InputError):
        return type(error)(f"inputs[{index}]: {error}")
    return error
