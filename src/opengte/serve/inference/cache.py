"""The result cache: results in memory, bounded in bytes, with an optional second level on disk."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from opengte.serve.inference.disk_cache import DiskCache
from opengte.serve.inference.types import InputResult


@dataclass(frozen=True)
class CacheInfo:
    """The size of the cache and its limits."""

    entries: int = 0
    bytes: int = 0
    max_bytes: int = 0
    disk_bytes: int = 0
    disk_errors: int = 0


class MemoryCache:
    """An LRU cache of results with a limit in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[bytes, InputResult] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> InputResult | None:
        """Return a result and make it the most recently used one; None on a miss."""
        result = self._entries.get(key)
        if result is not None:
            self._entries.move_to_end(key)
        return result

    def put(self, key: bytes, result: InputResult) -> bool:
        """Add a result, unless it exists or is larger than a quarter of the cache.

        Returns whether it was added.
        """
        if key in self._entries or result.nbytes > self.max_bytes // 4:
            return False
        self._entries[key] = result = detached(result)
        self.bytes += result.nbytes
        while self.bytes > self.max_bytes:
            _, evicted = self._entries.popitem(last=False)
            self.bytes -= evicted.nbytes
        return True


def detached(result: InputResult) -> InputResult:
    """Return a result whose arrays are read-only and no views of a batch's arrays."""
    return result._replace(
        dense=_detached(result.dense),
        tokens=_detached(result.tokens),
        states=_detached(result.states),
    )


def _detached(array: Any) -> Any:
    if array is None or (array.base is None and not array.flags.writeable):
        return array
    array = array.copy()
    array.flags.writeable = False
    return array


class ResultCache:
    """A memory cache, and optionally a disk cache behind it."""

    def __init__(self, max_bytes: int = 0, disk: DiskCache | None = None) -> None:
        self.memory = MemoryCache(max_bytes)
        self.disk = disk

    def put(self, key: bytes, result: InputResult) -> None:
        """Add a computed result to both."""
        if self.memory.put(key, result) and self.disk is not None:
            self.disk.put(key, result)

    def info(self) -> CacheInfo:
        """Return the size of the cache."""
        memory, disk = self.memory, self.disk
        return CacheInfo(
            len(memory),
            memory.bytes,
            memory.max_bytes,
            disk.bytes if disk else 0,
            disk.errors if disk else 0,
        )

    def close(self) -> None:
        """Flush the disk cache."""
        if self.disk is not None:
            self.disk.close()
