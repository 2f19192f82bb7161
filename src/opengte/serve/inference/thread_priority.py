"""Threads that wait for little and must not wait for long: the kernel is asked to run them at once.

A thread that wakes while others compute waits for the end of a slice of theirs, some 3 ms on Linux,
unless its own slice is shorter than theirs (EEVDF, from 6.12 on). A shorter slice is no larger
share of the processor, so that anybody may ask for it.
"""

import ctypes
import os
import platform
import struct
import sys

SLICE = 100_000  # nanoseconds, the least that Linux knows
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}  # sched_setattr, sched_getattr
_ATTRIBUTES = struct.Struct("<IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, ...


def be_prompt() -> bool:
    """Ask for short slices for the calling thread; return whether the kernel took note."""
    calls = _CALLS.get(platform.machine())
    if sys.platform != "linux" or calls is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, SLICE, 0, 0)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(calls[0], 0, wanted, 0) != 0:
            return False
        found = ctypes.create_string_buffer(_ATTRIBUTES.size)
        if libc.syscall(calls[1], 0, found, _ATTRIBUTES.size, 0) != 0:
            return False
    except (OSError, AttributeError):  # another C library
        return False
    return bool(_ATTRIBUTES.unpack(found.raw)[5] == SLICE)
