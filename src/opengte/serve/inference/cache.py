"""Rows that were computed before, exactly as they were, bounded in bytes."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from opengte.serve.inference.disk_cache import Disk
from opengte.serve.inference.types import Row


@dataclass(frozen=True)
class CacheInfo:
    """How full the cache is."""

    entries: int = 0
    bytes: int = 0
    max_bytes: int = 0
    disk_bytes: int = 0
    disk_errors: int = 0


class Memory:
    """The least recently used rows go first when there are more bytes than allowed."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._rows: OrderedDict[bytes, Row] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> Row | None:
        """Return a row and make it the most recent one."""
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, key: bytes, row: Row) -> bool:
        """Keep a row, unless it is there or alone is larger than a quarter of the cache."""
        if key in self._rows or row.nbytes > self.max_bytes // 4:
            return False
        self._rows[key] = row = own(row)
        self.bytes += row.nbytes
        while self.bytes > self.max_bytes:
            _, oldest = self._rows.popitem(last=False)
            self.bytes -= oldest.nbytes
        return True


def own(row: Row) -> Row:
    """Return a row that holds no part of a batch's arrays and that nobody can change."""
    return Row(
        row.found,
        row.kept,
        _own(row.dense),
        row.sparse,
        _own(row.tokens),
        _own(row.states),
        row.score,
    )


def _own(array: Any) -> Any:
    if array is None or (array.base is None and not array.flags.writeable):
        return array
    array = array.copy()
    array.flags.writeable = False
    return array


class Cache:
    """Rows in memory, and behind them on disk where that is asked for."""

    def __init__(self, max_bytes: int = 0, disk: Disk | None = None) -> None:
        self._memory = Memory(max_bytes)
        self.disk = disk

    def get(self, key: bytes) -> Row | None:
        """Return a row that is in memory."""
        return self._memory.get(key)

    def put(self, key: bytes, row: Row) -> None:
        """Keep what was computed."""
        if self._memory.put(key, row) and self.disk is not None:
            self.disk.put(key, row)

    def keep(self, key: bytes, row: Row) -> None:
        """Keep in memory what was found on disk."""
        self._memory.put(key, row)

    def info(self) -> CacheInfo:
        """Return how full the cache is."""
        memory, disk = self._memory, self.disk
        return CacheInfo(
            len(memory),
            memory.bytes,
            memory.max_bytes,
            disk.bytes if disk else 0,
            disk.errors if disk else 0,
        )

    def close(self) -> None:
        """Write what is not on disk yet."""
        if self.disk is not None:
            self.disk.close()
