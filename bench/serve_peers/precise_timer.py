"""Waking up on time: asyncio's own timers are up to a millisecond late."""

import asyncio
import ctypes
import os
import sys
import time

CLOCK_MONOTONIC = 1
NONBLOCK = os.O_NONBLOCK


class _Spec(ctypes.Structure):
    _fields_ = [
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    ]


class Alarm:
    """A timer of the kernel where there is one (Linux), asyncio's elsewhere."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._file = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._file = self._libc.timerfd_create(CLOCK_MONOTONIC, NONBLOCK)
        if self._file >= 0:
            self._loop.add_reader(self._file, self._ring)

    async def wait_until(self, moment: float) -> None:
        """Return at a moment on the clock of time.perf_counter()."""
        rest = moment - time.perf_counter()
        if rest <= 0:
            return
        if self._file < 0:
            await asyncio.sleep(rest)
            return
        seconds, part = divmod(max(int(rest * 1e9), 1), 10**9)
        self._waiting = self._loop.create_future()
        spec = _Spec(0, 0, seconds, part)
        self._libc.timerfd_settime(self._file, 0, ctypes.byref(spec), None)
        await self._waiting

    def _ring(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def close(self) -> None:
        """Free the timer."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
