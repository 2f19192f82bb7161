"""Anonymous memory that worker processes share."""

import fcntl
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedMemory:
    """Bytes that are the same in every process that holds the file descriptor; zero at first.

    The memory has no name and is freed with the last process. `locked` excludes other threads and
    processes; the lock of a process that dies is released.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        """Allocate so many bytes, or map those behind an inherited descriptor."""
        self.descriptor = _new_file(size) if descriptor is None else descriptor
        self.bytes = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        self._threads = threading.Lock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold an exclusive lock on the memory."""
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
        """Unmap the memory."""
        self.bytes.close()
        os.close(self.descriptor)


def _new_file(size: int) -> int:
    """Return a file without a name: in memory, or on a disk if the system has no memfd."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("opengte")
        os.ftruncate(descriptor, size)
        return descriptor
    with tempfile.TemporaryFile() as file:
        descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    os.write(descriptor, bytes(size))  # allocates the blocks before the file is mapped
    return descriptor
