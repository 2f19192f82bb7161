"""A lock of threads that a forked child finds open."""

import os
import threading
import weakref


class ProcessLock:
    """A lock for the threads of one process.

    A child that is forked while another thread holds the lock finds it open: the thread that would
    release it does not exist there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _ALL.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Open the lock, whoever held it."""
        self._lock = threading.Lock()


_ALL: "weakref.WeakSet[ProcessLock]" = weakref.WeakSet()


def _renew_all() -> None:
    for lock in list(_ALL):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
