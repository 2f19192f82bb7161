"""How much work is accepted: a bound in tokens, and when to come back beyond it."""

from opengte.errors import OverloadedError
from opengte.serve.inference.throughput import Pace
from opengte.serve.types import Priority

BULK_SHARE = 0.75  # of the queue that bulk may fill, so that interactive requests still get in
LEAST_WAIT = 0.1  # seconds
QUEUE_SECONDS = 30.0  # of work that is accepted ahead, within these bounds in tokens
INTERACTIVE_SECONDS = 5.0  # of it interactive: who waits for longer had better be told
LEAST_QUEUE, MOST_QUEUE = 16384, 1 << 20


class Backlog:
    """Tokens of requests that were accepted and are not answered yet.

    A request is accepted while there is less than the limit, whatever its size, so that when there
    is too much to do large ones are refused no more often than small ones.
    """

    def __init__(self, pace: Pace, limit: int | None = None, least: int = LEAST_QUEUE) -> None:
        self.pace = pace
        self.tokens = 0
        self.interactive_tokens = 0
        self._limit, self._least = limit, least

    @property
    def limit(self) -> int:
        """How many tokens are accepted ahead: as given, or some seconds of the measured speed."""
        return self._limit if self._limit is not None else self._worth(QUEUE_SECONDS)

    def admit(self, tokens: int, priority: Priority) -> "Ticket":
        """Accept a request of about so many tokens; OverloadedError says when there is room.

        A request larger than half of what its class may fill counts as that half, so that a client
        may send batches of any size.
        """
        held, limit = self._before(priority)
        most = max(1, limit // 2)
        needed = min(tokens, most)
        if held >= limit:
            wait = max(LEAST_WAIT, (held + needed - limit) / self.pace.drain_rate)
            raise OverloadedError(
                f"{held} tokens wait, the limit of {limit} for {priority} requests is reached; "
                f"come back in {wait:.1f} seconds",
                retry_after=wait,
            )
        return Ticket(self, needed, most, priority)

    def _before(self, priority: Priority) -> tuple[int, int]:
        """Return the tokens that come before a new request, and how many may."""
        if priority == "bulk":
            return self.tokens, int(self.limit * BULK_SHARE)
        if self._limit is not None or self.tokens >= self.limit:
            return self.tokens, self.limit
        return self.interactive_tokens, self._worth(INTERACTIVE_SECONDS)  # bulk is overtaken

    def _worth(self, seconds: float) -> int:
        return max(self._least, min(MOST_QUEUE, int(self.pace.drain_rate * seconds)))


class Ticket:
    """One request's part of the backlog."""

    def __init__(self, backlog: Backlog, tokens: int, most: int, priority: Priority) -> None:
        self._backlog, self._held, self._most = backlog, 0, most
        self._interactive = priority == "interactive"
        self.hold(tokens)

    def hold(self, tokens: int) -> None:
        """Set how many tokens of the request are still to be computed."""
        tokens = max(0, min(tokens, self._most))
        more = tokens - self._held
        self._held = tokens
        self._backlog.tokens += more
        if self._interactive:
            self._backlog.interactive_tokens += more
