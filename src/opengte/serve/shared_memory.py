"""Memory that worker processes share: it has no name, and goes with the last of them."""

import fcntl
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedMemory:
    """Bytes that are the same in every process that holds the file descriptor.

    At the start all zero. `locked` excludes other threads and other processes; a process that dies
    lets go of it.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        """Make new memory, or join the memory of a descriptor that was inherited."""
        self.descriptor = _new_file(size) if descriptor is None else descriptor
        self.bytes = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        self._threads = threading.Lock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the memory alone."""
        with self._threads:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN)

    def grow(self, size: int) -> None:
        """Make the memory at least this large; call it while holding the lock."""
        if os.fstat(self.descriptor).st_size < size:
            os.ftruncate(self.descriptor, size)
        if len(self.bytes) < size:
            self.bytes.close()
            self.bytes = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)

    def close(self) -> None:
        """Let go of the memory."""
        self.bytes.close()
        os.close(self.descriptor)


def _new_file(size: int) -> int:
    """Return a file without a name: of memory, or where the system has none of that, of a disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("opengte")
        os.ftruncate(descriptor, size)
        return descriptor
    with tempfile.TemporaryFile() as file:
        descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    os.write(descriptor, bytes(size))  # the place on the disk is there before it is mapped
    return descriptor
