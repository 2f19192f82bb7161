"""Looking after the lanes while they work: a batch that takes far too long is a hang."""

import asyncio
import time
from collections.abc import Callable

from opengte.serve.inference.throughput import Pace
from opengte.serve.inference.workers import Lane, Lanes, Running

SLOWEST = 20.0  # times the usual, before a batch is taken for a hang
LONGEST_PAUSE = 1.0


class Watch:
    """Looks from time to time as long as the lanes are active; hung is told what hangs."""

    def __init__(
        self, lanes: Lanes, pace: Pace, seconds: float, hung: Callable[[Lane, Running], None]
    ) -> None:
        self._lanes, self._pace, self._seconds, self._hung = lanes, pace, seconds, hung
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        """Look after the lanes until they have nothing to do."""
        if self._timer is None:
            pause = min(LONGEST_PAUSE, self._seconds / 4)
            self._timer = self._loop.call_later(pause, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for lane in self._lanes.lanes:
            computing = lane.computing()
            if computing is None:
                continue
            running, began = computing
            if now - began > self._limit(running.tokens):
                lane.abandoned = True
                self._hung(lane, running)
                return
        if self._lanes.active:
            self.arm()

    def _limit(self, tokens: int) -> float:
        return self._seconds + SLOWEST * self._pace.seconds(tokens)
