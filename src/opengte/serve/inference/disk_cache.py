"""The disk cache: an SQLite file of bounded size with results that survive a restart.

No problem with the file (a full or read-only disk, damage, a lock of another process) ever fails a
request: it is counted, and for some time after a failure the file is not used.
"""

import logging
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from opengte.serve.inference.types import InputResult
from opengte.types import Floats

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON rows (used);
"""
MAX_QUEUED = 4096  # results that wait to be written; further ones are dropped
BATCH = 256
BUSY_SECONDS = 0.5
RETRY_SECONDS = 30.0  # without the file, after a failure
OVERHEAD = 64  # bytes of a row besides its value


class DiskCache:
    """Results in an SQLite file; `get` is thread-safe, and a background thread writes."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes
        self.errors = 0
        self.bytes = 0
        self._retry_at = 0.0
        self._queue: SimpleQueue[tuple[bytes, InputResult] | None] = SimpleQueue()
        self._used: SimpleQueue[bytes] = SimpleQueue()
        self._local = threading.local()
        self._thread = threading.Thread(target=self._write_loop, name="opengte-cache", daemon=True)
        self._thread.start()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, InputResult]:
        """Return the results that the file contains."""
        if time.monotonic() < self._retry_at:
            return {}
        results: dict[bytes, InputResult] = {}
        try:
            connection = self._connection()
            for start in range(0, len(keys), BATCH):
                part = keys[start : start + BATCH]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, value FROM rows WHERE key IN ({marks})"
                for key, value in connection.execute(query, part):
                    result = deserialize(value)
                    if result is not None:
                        results[key] = result
        except (sqlite3.Error, OSError) as error:
            self._failed("read", error)
        for key in results:
            if self._used.qsize() < MAX_QUEUED:
                self._used.put(key)
        return results

    def put(self, key: bytes, result: InputResult) -> None:
        """Queue a result to be written; it is dropped if too many wait."""
        if self._queue.qsize() < MAX_QUEUED:
            self._queue.put((key, result))

    def close(self) -> None:
        """Write what is queued, and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout=10.0)

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(SCHEMA)
            self._local.connection = connection
        return connection

    def _failed(self, action: str, error: Exception) -> None:
        self.errors += 1
        self._retry_at = time.monotonic() + RETRY_SECONDS
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            with closing(connection):
                self._local.connection = None
        log.warning("the cache file %s cannot be used to %s: %s", self.path, action, error)

    # --- on the writing thread ---

    def _write_loop(self) -> None:
        while True:
            entries, last = self._next_batch()
            if time.monotonic() >= self._retry_at:
                try:
                    self._store(entries)
                except (sqlite3.Error, OSError) as error:
                    self._failed("write", error)
            if last:
                break
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()

    def _next_batch(self) -> tuple[list[tuple[bytes, InputResult]], bool]:
        """Wait for results; return those that are queued, and whether the cache is closing."""
        entries: list[tuple[bytes, InputResult]] = []
        while len(entries) < BATCH:
            try:
                entry = self._queue.get(block=not entries)
            except Empty:
                break
            if entry is None:
                return entries, True
            entries.append(entry)
        return entries, False

    def _store(self, entries: Sequence[tuple[bytes, InputResult]]) -> None:
        connection = self._connection()
        now = time.time_ns()
        values = [(key, serialize(result), now) for key, result in entries]
        used = [(now, key) for key in self._used_keys()]
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)",
                [(key, value, len(value) + OVERHEAD, when) for key, value, when in values],
            )
            connection.executemany("UPDATE rows SET used = ? WHERE key = ?", used)
            self._evict(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _used_keys(self) -> list[bytes]:
        return [self._used.get_nowait() for _ in range(self._used.qsize())]

    def _evict(self, connection: sqlite3.Connection) -> None:
        """If the file is full, delete the least recently used rows until a tenth is free."""
        (size,) = connection.execute("SELECT coalesce(sum(size), 0) FROM rows").fetchone()
        if size > self.max_bytes:
            excess, freed = size - self.max_bytes * 9 // 10, 0
            evicted = []
            for key, row_size in connection.execute("SELECT key, size FROM rows ORDER BY used"):
                if freed >= excess:
                    break
                evicted.append((key,))
                freed += row_size
            connection.executemany("DELETE FROM rows WHERE key = ?", evicted)
            size -= freed
        self.bytes = size


# --- the format of a value: a header, the arrays, and a checksum over both ---

HEADER = struct.Struct("<IqqB")  # checksum, original length, length, flags of the fields present
ARRAYS = ("dense", "tokens", "states")
SPARSE_FLAG, SCORE_FLAG, AT_LEAST_FLAG = 8, 16, 32


def serialize(result: InputResult) -> bytes:
    """Return a result as bytes."""
    flags, parts = 0, []
    for bit, name in enumerate(ARRAYS):
        array = getattr(result, name)
        if array is not None:
            flags |= 1 << bit
            shape = array.shape if array.ndim == 2 else (-1, array.shape[0])
            parts += [struct.pack("<ii", *shape), array.tobytes()]
    if result.sparse is not None:
        flags |= SPARSE_FLAG
        parts.append(struct.pack("<i", len(result.sparse)))
        parts.append(np.fromiter(result.sparse, np.int64).tobytes())
        parts.append(np.fromiter(result.sparse.values(), np.float64).tobytes())
    if result.score is not None:
        flags |= SCORE_FLAG
        parts.append(struct.pack("<d", result.score))
    if result.at_least:
        flags |= AT_LEAST_FLAG
    header = HEADER.pack(0, result.original_length, result.length, flags)
    body = header[4:] + b"".join(parts)
    return struct.pack("<I", zlib.crc32(body)) + body


def deserialize(value: bytes) -> InputResult | None:
    """Return the result that bytes hold, None if they are damaged."""
    if len(value) < HEADER.size or zlib.crc32(value[4:]) != int.from_bytes(value[:4], "little"):
        return None
    _, original_length, length, flags = HEADER.unpack_from(value)
    offset = HEADER.size
    arrays: dict[str, Floats | None] = dict.fromkeys(ARRAYS)
    for bit, name in enumerate(ARRAYS):
        if flags & 1 << bit:
            rows, width = struct.unpack_from("<ii", value, offset)
            count = width if rows < 0 else rows * width
            array = np.frombuffer(value, np.float32, count, offset + 8)
            arrays[name] = array if rows < 0 else array.reshape(rows, width)
            offset += 8 + 4 * count
    sparse = score = None
    if flags & SPARSE_FLAG:
        (count,) = struct.unpack_from("<i", value, offset)
        ids = np.frombuffer(value, np.int64, count, offset + 4)
        weights = np.frombuffer(value, np.float64, count, offset + 4 + 8 * count)
        sparse = dict(zip(ids.tolist(), weights.tolist(), strict=True))
        offset += 4 + 16 * count
    if flags & SCORE_FLAG:
        (score,) = struct.unpack_from("<d", value, offset)
    at_least = bool(flags & AT_LEAST_FLAG)
    return InputResult(
        original_length, length, sparse=sparse, score=score, at_least=at_least, **arrays
    )
