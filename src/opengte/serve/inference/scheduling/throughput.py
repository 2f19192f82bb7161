"""Measured throughput of a model: the basis of batch sizes, time limits and Retry-After."""

DECAY = 0.98  # weight of earlier measurements at each new batch


class Throughput:
    """Tokens per second of a model's engines, as a moving average over recent batches."""

    def __init__(self, tokens: int, seconds: float, engines: int = 1) -> None:
        self._tokens, self._seconds = float(tokens), max(seconds, 1e-6)
        self.engines = engines

    def record(self, tokens: int, seconds: float) -> None:
        """Record a batch of one engine."""
        self._tokens = DECAY * self._tokens + tokens
        self._seconds = DECAY * self._seconds + seconds

    @property
    def engine_rate(self) -> float:
        """Tokens per second of one engine."""
        return self._tokens / self._seconds

    @property
    def total_rate(self) -> float:
        """Tokens per second of all engines together."""
        return self.engine_rate * self.engines

    def seconds(self, tokens: int) -> float:
        """Return how many seconds one engine needs for a batch."""
        return tokens / self.engine_rate
