"""Hang detection: reports an engine thread whose batch takes far too long."""

import asyncio
import time
from collections.abc import Callable

from opengte.serve.inference.scheduling.engine_threads import (
    EngineThread,
    EngineThreads,
    RunningBatch,
)
from opengte.serve.inference.scheduling.throughput import Throughput

SLOWDOWN = 20.0  # times the expected duration, until a batch counts as a hang
MAX_INTERVAL = 1.0  # seconds between two checks


class Watchdog:
    """Checks the threads regularly while they are active, and calls `on_hang` for one that hangs.

    A batch may take `seconds` plus `SLOWDOWN` times its expected duration.
    """

    def __init__(
        self,
        threads: EngineThreads,
        throughput: Throughput,
        seconds: float,
        on_hang: Callable[[EngineThread, RunningBatch], None],
    ) -> None:
        self._threads, self._throughput, self._seconds = threads, throughput, seconds
        self._on_hang = on_hang
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        """Check the threads until they have nothing to do."""
        if self._timer is None:
            interval = min(MAX_INTERVAL, self._seconds / 4)
            self._timer = self._loop.call_later(interval, self._check)

    def stop(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        self._timer = None
        now = time.monotonic()
        for thread in self._threads.threads:
            running = thread.running
            if running is not None and now - running.started > self._limit(running.tokens):
                thread.abandoned = True
                self._on_hang(thread, running)
                return
        if self._threads.active:
            self.arm()

    def _limit(self, tokens: int) -> float:
        return self._seconds + SLOWDOWN * self._throughput.seconds(tokens)
