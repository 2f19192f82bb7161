"""Admission control: a limit on queued tokens, and how long to wait when it is reached."""

from opengte.errors import OverloadedError
from opengte.serve.inference.scheduling.throughput import Throughput
from opengte.serve.types import Priority

BULK_SHARE = 0.75  # of the limit is open to bulk, so that interactive requests still get in
MIN_WAIT = 0.1  # seconds
# The default limits, in seconds of work at the measured throughput, within bounds in tokens.
QUEUE_SECONDS = 30.0
INTERACTIVE_SECONDS = 5.0  # of interactive work: better to refuse than to answer later than this
MIN_QUEUE_TOKENS, MAX_QUEUE_TOKENS = 16384, 1 << 20


class AdmissionController:
    """Counts the tokens of admitted requests that are not computed yet, and limits them.

    A request is admitted while the count is below the limit, whatever the size of the request: so
    under overload large requests are refused no more often than small ones.
    """

    def __init__(
        self, throughput: Throughput, limit: int | None = None, minimum: int = MIN_QUEUE_TOKENS
    ) -> None:
        self.throughput = throughput
        self.tokens = 0
        self.interactive_tokens = 0
        self._limit, self._minimum = limit, minimum

    @property
    def limit(self) -> int:
        """The limit in tokens: configured, or derived from the measured throughput."""
        return self._limit if self._limit is not None else self._tokens_in(QUEUE_SECONDS)

    def admit(self, tokens: int, priority: Priority) -> "Reservation":
        """Admit a request of about that many tokens.

        A request larger than half of the limit for its priority counts as that half, so that
        clients can send batches of any size. Raises OverloadedError, with the seconds until there
        is room, if the limit is reached.
        """
        ahead, limit = self._ahead(priority)
        maximum = max(1, limit // 2)
        needed = min(tokens, maximum)
        if ahead >= limit:
            wait = max(MIN_WAIT, (ahead + needed - limit) / self.throughput.total_rate)
            raise OverloadedError(
                f"{ahead} tokens wait, the limit of {limit} for {priority} requests is reached; "
                f"come back in {wait:.1f} seconds",
                retry_after=wait,
            )
        return Reservation(self, needed, maximum, priority)

    def _ahead(self, priority: Priority) -> tuple[int, int]:
        """Return how many tokens are computed before a new request, and their limit."""
        if priority == "bulk":
            return self.tokens, int(self.limit * BULK_SHARE)
        if self._limit is not None or self.tokens >= self.limit:
            return self.tokens, self.limit
        # an interactive request overtakes bulk
        return self.interactive_tokens, self._tokens_in(INTERACTIVE_SECONDS)

    def _tokens_in(self, seconds: float) -> int:
        tokens = int(self.throughput.total_rate * seconds)
        return max(self._minimum, min(MAX_QUEUE_TOKENS, tokens))


class Reservation:
    """The queued tokens of one request."""

    def __init__(
        self, controller: AdmissionController, tokens: int, maximum: int, priority: Priority
    ) -> None:
        self._controller, self._tokens, self._maximum = controller, 0, maximum
        self._interactive = priority == "interactive"
        self.resize(tokens)

    def resize(self, tokens: int) -> None:
        """Set how many tokens of the request are not computed yet."""
        tokens = max(0, min(tokens, self._maximum))
        change = tokens - self._tokens
        self._tokens = tokens
        self._controller.tokens += change
        if self._interactive:
            self._controller.interactive_tokens += change
