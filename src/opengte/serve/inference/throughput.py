"""How fast a model computes, as measured: for batch sizes, limits in time, and Retry-After."""

FADE = 0.98  # weight of what was measured, at each new batch


class Pace:
    """Tokens a second of one lane, from the batches it computed lately."""

    def __init__(self, tokens: int, seconds: float, lanes: int = 1) -> None:
        self._tokens, self._seconds = float(tokens), max(seconds, 1e-6)
        self.lanes = lanes

    def measured(self, tokens: int, seconds: float) -> None:
        """Take note of a batch."""
        self._tokens = FADE * self._tokens + tokens
        self._seconds = FADE * self._seconds + seconds

    @property
    def lane_rate(self) -> float:
        """Tokens a second of one lane."""
        return self._tokens / self._seconds

    @property
    def drain_rate(self) -> float:
        """Tokens a second of all lanes."""
        return self.lane_rate * self.lanes

    def seconds(self, tokens: int) -> float:
        """How long one lane takes for a batch."""
        return tokens / self.lane_rate
