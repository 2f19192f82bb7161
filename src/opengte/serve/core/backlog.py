"""How much work is accepted: a bound in tokens, and when to come back beyond it."""

from opengte.errors import OverloadedError
from opengte.serve.core.pace import Pace
from opengte.serve.request import Priority

BULK_SHARE = 0.75  # of the queue that bulk may fill, so that interactive requests still get in
LEAST_WAIT = 0.1  # seconds
QUEUE_SECONDS = 30.0  # of work that is accepted ahead, within these bounds in tokens
LEAST_QUEUE, MOST_QUEUE = 16384, 1 << 20


class Backlog:
    """Tokens of requests that were accepted and are not answered yet."""

    def __init__(self, pace: Pace, limit: int | None = None, least: int = LEAST_QUEUE) -> None:
        self.pace = pace
        self.tokens = 0
        self._limit, self._least = limit, least

    @property
    def limit(self) -> int:
        """How many tokens are accepted ahead: as given, or some seconds of the measured speed."""
        if self._limit is not None:
            return self._limit
        return max(self._least, min(MOST_QUEUE, int(self.pace.drain_rate * QUEUE_SECONDS)))

    def admit(self, tokens: int, priority: Priority) -> "Ticket":
        """Accept a request of about so many tokens; OverloadedError says when there is room.

        A request larger than half of what its class may fill counts as that half, so that a client
        may send batches of any size.
        """
        limit = int(self.limit * (BULK_SHARE if priority == "bulk" else 1.0))
        most = max(1, limit // 2)
        needed = min(tokens, most)
        if self.tokens + needed > limit:
            excess = self.tokens + needed - limit
            wait = max(LEAST_WAIT, excess / self.pace.drain_rate)
            raise OverloadedError(
                f"the queue holds {self.tokens} tokens, and {needed} more are over the limit of "
                f"{limit} for {priority} requests; come back in {wait:.1f} seconds",
                retry_after=wait,
            )
        return Ticket(self, needed, most)


class Ticket:
    """One request's part of the backlog."""

    def __init__(self, backlog: Backlog, tokens: int, most: int) -> None:
        self._backlog, self._held, self._most = backlog, 0, most
        self.hold(tokens)

    def hold(self, tokens: int) -> None:
        """Set how many tokens of the request are still to be computed."""
        tokens = max(0, min(tokens, self._most))
        self._backlog.tokens += tokens - self._held
        self._held = tokens
