"""The cache's second level: an SQLite file of bounded size that outlives the server.

Whatever goes wrong with the file (a full or read-only disk, damage, another process that holds it)
costs speed, never an answer: it is counted, and after some failures in a row the file is left
alone for a while.
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

from opengte.serve.inference.types import Row
from opengte.types import Floats

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON rows (used);
"""
WAITING = 4096  # rows that wait to be written; more are dropped
BATCH = 256
BUSY_SECONDS = 0.5
PAUSE_SECONDS = 30.0  # without the file, after a failure
OVERHEAD = 64  # bytes of a row besides its value


class Disk:
    """Rows in a file; `get` may be called from any thread, and a thread of its own writes."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes
        self.errors = 0
        self.bytes = 0
        self._not_before = 0.0
        self._queue: SimpleQueue[tuple[bytes, Row] | None] = SimpleQueue()
        self._touched: SimpleQueue[bytes] = SimpleQueue()
        self._local = threading.local()
        self._thread = threading.Thread(target=self._write, name="opengte-cache", daemon=True)
        self._thread.start()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """Return the rows that are there."""
        if time.monotonic() < self._not_before:
            return {}
        found: dict[bytes, Row] = {}
        try:
            connection = self._connection()
            for start in range(0, len(keys), BATCH):
                some = keys[start : start + BATCH]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, value FROM rows WHERE key IN ({marks})"
                for key, value in connection.execute(query, some):
                    row = unpacked(value)
                    if row is not None:
                        found[key] = row
        except sqlite3.Error as error:
            self._failed("read", error)
        for key in found:
            if self._touched.qsize() < WAITING:
                self._touched.put(key)
        return found

    def put(self, key: bytes, row: Row) -> None:
        """Have a row written soon; it is dropped when too many wait."""
        if self._queue.qsize() < WAITING:
            self._queue.put((key, row))

    def close(self) -> None:
        """Write what waits, and end the thread."""
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

    def _failed(self, what: str, error: Exception) -> None:
        self.errors += 1
        self._not_before = time.monotonic() + PAUSE_SECONDS
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            with closing(connection):
                self._local.connection = None
        log.warning("the cache file %s cannot be used to %s: %s", self.path, what, error)

    # --- on the writing thread ---

    def _write(self) -> None:
        while True:
            rows, last = self._batch()
            if time.monotonic() >= self._not_before:
                try:
                    self._store(rows)
                except (sqlite3.Error, OSError) as error:
                    self._failed("write", error)
            if last:
                break
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()

    def _batch(self) -> tuple[list[tuple[bytes, Row]], bool]:
        """Wait for rows; return what is there, and whether those are the last."""
        rows: list[tuple[bytes, Row]] = []
        while len(rows) < BATCH:
            try:
                item = self._queue.get(block=not rows)
            except Empty:
                break
            if item is None:
                return rows, True
            rows.append(item)
        return rows, False

    def _store(self, rows: Sequence[tuple[bytes, Row]]) -> None:
        connection = self._connection()
        now = time.time_ns()
        values = [(key, packed(row), now) for key, row in rows]
        touched = [(now, key) for key in self._all_touched()]
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)",
                [(key, value, len(value) + OVERHEAD, used) for key, value, used in values],
            )
            connection.executemany("UPDATE rows SET used = ? WHERE key = ?", touched)
            self._evict(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _all_touched(self) -> list[bytes]:
        keys = []
        for _ in range(self._touched.qsize()):
            keys.append(self._touched.get_nowait())
        return keys

    def _evict(self, connection: sqlite3.Connection) -> None:
        """Delete the rows that were not used for longest, until a tenth is free again."""
        (held,) = connection.execute("SELECT coalesce(sum(size), 0) FROM rows").fetchone()
        if held > self.max_bytes:
            excess, freed = held - self.max_bytes * 9 // 10, 0
            gone = []
            for key, size in connection.execute("SELECT key, size FROM rows ORDER BY used"):
                if freed >= excess:
                    break
                gone.append((key,))
                freed += size
            connection.executemany("DELETE FROM rows WHERE key = ?", gone)
            held -= freed
        self.bytes = held


# --- rows as bytes: a head, then the arrays, and a checksum of it all ---

HEAD = struct.Struct("<IqqB")  # checksum, found, kept, which fields there are
FIELDS = ("dense", "tokens", "states")


def packed(row: Row) -> bytes:
    """Return a row as bytes."""
    flags, parts = 0, []
    for bit, name in enumerate(FIELDS):
        array = getattr(row, name)
        if array is not None:
            flags |= 1 << bit
            shape = array.shape if array.ndim == 2 else (-1, array.shape[0])
            parts += [struct.pack("<ii", *shape), array.tobytes()]
    if row.sparse is not None:
        flags |= 8
        parts.append(struct.pack("<i", len(row.sparse)))
        parts.append(np.fromiter(row.sparse, np.int64).tobytes())
        parts.append(np.fromiter(row.sparse.values(), np.float64).tobytes())
    if row.score is not None:
        flags |= 16
        parts.append(struct.pack("<d", row.score))
    body = HEAD.pack(0, row.found, row.kept, flags)[4:] + b"".join(parts)
    return struct.pack("<I", zlib.crc32(body)) + body


def unpacked(value: bytes) -> Row | None:
    """Return the row that bytes hold, None when they are damaged."""
    if len(value) < HEAD.size or zlib.crc32(value[4:]) != int.from_bytes(value[:4], "little"):
        return None
    _, found, kept, flags = HEAD.unpack_from(value)
    place = HEAD.size
    arrays: dict[str, Floats | None] = dict.fromkeys(FIELDS)
    for bit, name in enumerate(FIELDS):
        if flags & 1 << bit:
            rows, width = struct.unpack_from("<ii", value, place)
            count = width if rows < 0 else rows * width
            array = np.frombuffer(value, np.float32, count, place + 8)
            arrays[name] = array if rows < 0 else array.reshape(rows, width)
            place += 8 + 4 * count
    sparse = score = None
    if flags & 8:
        (count,) = struct.unpack_from("<i", value, place)
        ids = np.frombuffer(value, np.int64, count, place + 4)
        weights = np.frombuffer(value, np.float64, count, place + 4 + 8 * count)
        sparse = dict(zip(ids.tolist(), weights.tolist(), strict=True))
        place += 4 + 16 * count
    if flags & 16:
        (score,) = struct.unpack_from("<d", value, place)
    return Row(found, kept, arrays["dense"], sparse, arrays["tokens"], arrays["states"], score)
