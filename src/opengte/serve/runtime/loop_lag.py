"""Whether the event loop keeps up: a timer that is late tells how far it is behind."""

import asyncio
import math
import time

_BEAT = 0.05  # seconds
LATE = 0.25  # seconds from one beat to the next, twice in a row: a large body comes alone


class Pulse:
    """Beats on an event loop; before `start`, and after `stop`, it is never behind."""

    def __init__(self) -> None:
        self._last = math.inf
        self._was_late = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to beat on the running event loop."""
        self._last = time.monotonic()
        self._beat(asyncio.get_running_loop())

    def stop(self) -> None:
        """Beat no more."""
        self._last = math.inf
        if self._timer is not None:
            self._timer.cancel()

    def is_behind(self) -> bool:
        """Return whether the loop's turns take too long: the last one, and by now this one."""
        return self._was_late and time.monotonic() - self._last > LATE

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        self._was_late, self._last = now - self._last > LATE, now
        self._timer = loop.call_later(_BEAT, self._beat, loop)
