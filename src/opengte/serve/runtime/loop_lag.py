"""Detects an overloaded event loop: a timer that fires late shows how far the loop lags."""

import asyncio
import math
import time

_INTERVAL = 0.05  # seconds between two ticks
MAX_LAG = 0.25  # seconds; two late ticks in a row are overload: one large body alone makes one late


class LoopLagMonitor:
    """Measures the lag of an event loop; before `start` and after `stop` there is none."""

    def __init__(self) -> None:
        self._last = math.inf
        self._was_late = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to measure the running event loop."""
        self._last = time.monotonic()
        self._tick(asyncio.get_running_loop())

    def stop(self) -> None:
        """End measuring."""
        self._last = math.inf
        if self._timer is not None:
            self._timer.cancel()

    def overloaded(self) -> bool:
        """Return whether the last tick was late and the next one is late by now."""
        return self._was_late and time.monotonic() - self._last > MAX_LAG

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        self._was_late, self._last = now - self._last > MAX_LAG, now
        self._timer = loop.call_later(_INTERVAL, self._tick, loop)
