"""One request's inputs on their way, and what came back for each."""

import asyncio
import time
from collections.abc import Sequence

from opengte.errors import DeadlineError, InputError, OpenGTEError, ServiceError, TruncationError
from opengte.serve.inference.admission import Ticket
from opengte.serve.inference.types import Flight, Row
from opengte.serve.types import Priority, Timing


class Job:
    """The distinct inputs of one request; lives on the event loop.

    With partial, failures stay with their input; otherwise the first one fails the request, as does
    any that says nothing of the input.
    strict makes an input that lost tokens a failure.
    """

    def __init__(
        self,
        inverse: Sequence[int],
        count: int,
        priority: Priority,
        deadline: float | None,
        *,
        partial: bool,
        strict: bool,
        max_length: int,
    ) -> None:
        self.inverse = inverse  # which of the distinct inputs each input of the request is
        self.rows: list[Row | None] = [None] * count
        self.failures: dict[int, OpenGTEError] = {}
        self.priority, self.deadline = priority, deadline
        self.partial, self.strict, self.max_length = partial, strict, max_length
        self.flights: dict[Flight, None] = {}
        self.ticket: Ticket | None = None
        self.left = count
        self.open_tokens = 0  # of flights that are under way, estimated until they are tokenised
        self.rest_tokens = 0  # of inputs whose turn has not come, estimated
        self.sent_tokens = 0  # of flights that were started
        self.urgent = False  # a small request that somebody waits for
        self.shared = 0
        self.computing = self.tokenizing = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if count == 0:
            self.done.set_result(None)
        self._room: asyncio.Future[None] | None = None
        self.started = time.monotonic()

    @property
    def timing(self) -> Timing:
        """Where the time went until now."""
        total = time.monotonic() - self.started
        queued = max(0.0, total - self.tokenizing - self.computing)
        return Timing(self.tokenizing, queued, self.computing)

    def arrived(self, place: int, row: Row) -> None:
        """Take the row of one input."""
        if self.strict and row.found > row.kept:
            self.failed(place, too_long(row.found, self.max_length))
            return
        self.rows[place] = row
        self._one_less()

    def failed(self, place: int, error: OpenGTEError) -> None:
        """Take the failure of one input."""
        self.failures[place] = error
        if not self.partial or isinstance(error, ServiceError):
            self.fail(at(self.inverse.index(place), error))
        self._one_less()

    def fail(self, error: OpenGTEError) -> None:
        """End the whole request."""
        if not self.done.done():
            self.done.set_exception(error)
        self.wake()

    def expire(self) -> None:
        """End the request because its time ran out."""
        self.fail(DeadlineError("the request's deadline passed before it was computed"))

    def open(self, tokens: int) -> None:
        """Count tokens that are now under way, or (negative) no longer."""
        self.open_tokens += tokens
        if self.ticket is not None:
            self.ticket.hold(self.open_tokens + self.rest_tokens)
        if tokens < 0:
            self.wake()

    async def room(self, limit: int) -> None:
        """Wait until less than limit tokens are under way, or the request is done."""
        while self.open_tokens >= limit and not self.done.done():
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def wake(self) -> None:
        """Let `room` look again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _one_less(self) -> None:
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)


def too_long(found: int, limit: int) -> TruncationError:
    """Return the error of an input that is too long where truncation is an error."""
    return TruncationError(
        f"the input has {found} tokens, more than max_length = {limit}. Shorten or split it, or "
        "let it be truncated at the right or the left."
    )


def at(place: int, error: OpenGTEError) -> OpenGTEError:
    """Return an error of one input that says which input it was."""
    if isinstance(error, TruncationError | InputError):
        return type(error)(f"inputs[{place}]: {error}")
    return error
