"""Requests a short scheduler time slice (EEVDF) for latency-sensitive threads.

A thread that wakes up while others compute waits for the end of their time slice, about 3 ms on
Linux, unless its own slice is shorter than theirs (EEVDF, Linux 6.12 and newer). A shorter slice
gives no larger share of the processor, so it needs no privileges.
"""

import ctypes
import os
import platform
import struct
import sys

SLICE_NANOSECONDS = 100_000  # the minimum that Linux accepts
_SYSCALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}  # sched_setattr, sched_getattr
_ATTRIBUTES = struct.Struct("<IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, ...


def request_short_timeslice() -> bool:
    """Request a short time slice for the calling thread; return whether the kernel granted it."""
    syscalls = _SYSCALLS.get(platform.machine())
    if sys.platform != "linux" or syscalls is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    size = _ATTRIBUTES.size
    wanted = _ATTRIBUTES.pack(size, os.SCHED_OTHER, 0, nice, 0, SLICE_NANOSECONDS, 0, 0)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(syscalls[0], 0, wanted, 0) != 0:
            return False
        granted = ctypes.create_string_buffer(size)
        if libc.syscall(syscalls[1], 0, granted, size, 0) != 0:
            return False
    except (OSError, AttributeError):  # a C library without syscall()
        return False
    return bool(_ATTRIBUTES.unpack(granted.raw)[5] == SLICE_NANOSECONDS)
