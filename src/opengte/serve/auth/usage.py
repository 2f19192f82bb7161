"""Usage of each key, model and day: first in a journal, then in SQLite.

Each process appends a line to its own journal for every request, so that the kernel has it before
the answer is sent. Once a second the new lines go into SQLite in one transaction, together with the
offset up to which the journal is stored. So a process that is killed loses nothing that was
answered, and nothing is counted twice. (A machine that loses power may lose the last seconds.)
"""

import fcntl
import os
import secrets
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

FILE = "usage.db"
_JOURNALS = "usage-*.journal"
ROTATE_BYTES = 8 * 2**20  # of a journal, after which a new one begins

_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL,    -- of UTC, 2026-11-22
    key TEXT NOT NULL,    -- the public id; '' if the server needs no keys
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    texts INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (day, key, model)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journals (
    name TEXT PRIMARY KEY,
    offset INTEGER NOT NULL  -- up to which the file is in the table above
) WITHOUT ROWID;
"""
_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    texts = texts + excluded.texts,
    tokens = tokens + excluded.tokens
"""

_Group = tuple[str, str, str]  # day, key, model
_Amount = tuple[int, int, int]  # requests, texts, tokens


@dataclass(frozen=True)
class UsageRow:
    """What a key used of a model on a day (UTC, 2026-11-22)."""

    day: str
    key: str
    model: str
    requests: int
    texts: int
    tokens: int


def read_usage(
    folder: Path, since: str | None = None, until: str | None = None, key: str | None = None
) -> list[UsageRow]:
    """Return the usage by day, key and model, from SQLite and the journals.

    since and until are days, both included; key is the public id of one key.
    """
    # journals first: lines that move into the table meanwhile are then seen only there
    journals = {path.name: _content(path) for path in sorted(folder.glob(_JOURNALS))}
    totals, offsets = _stored(folder)
    for name, content in journals.items():
        if name in offsets or (folder / name).exists():
            for group, amount in _parse(content, offsets.get(name, 0)).items():
                _add(totals, group, amount)
    return [
        UsageRow(*group, *amount)
        for group, amount in sorted(totals.items())
        if (since is None or group[0] >= since)
        and (until is None or group[0] <= until)
        and (key is None or group[1] == key)
    ]


def _stored(folder: Path) -> tuple[dict[_Group, _Amount], dict[str, int]]:
    """Return the table, and the offset up to which it has each journal."""
    totals: dict[_Group, _Amount] = {}
    if not (folder / FILE).exists():
        return totals, {}
    with closing(_open_to_read(folder)) as database:
        database.execute("BEGIN")  # both tables in one state
        try:
            for row in database.execute("SELECT * FROM usage"):
                _add(totals, row[:3], row[3:])
            return totals, dict(database.execute("SELECT name, offset FROM journals").fetchall())
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):  # the file was created a moment ago
                return {}, {}
            raise


class UsageLog:
    """The usage records of one server process; never raises, but counts its failures."""

    def __init__(self, folder: Path) -> None:
        """Open a journal in the folder."""
        self.folder = folder
        self.failures = 0  # writes that failed
        self.working = True  # whether the last write succeeded
        self._pending: dict[_Group, _Amount] = {}  # in the journal, not yet in SQLite
        self._lock = threading.Lock()  # of _pending and the journal
        self._flushing = threading.Lock()
        self._journal: int | None = None
        self._name = ""
        self._written = 0  # bytes of the journal
        self._stored = 0  # bytes of the journal that are in SQLite
        self._day = (-1, "")
        self._database: sqlite3.Connection | None = None
        self._open_journal()

    def record(self, key: str | None, model: str, texts: int, tokens: int) -> None:
        """Record one request: some microseconds, and safe against a kill once it returns."""
        day = self._today()
        line = f"{day}\t{key or ''}\t{_plain(model)}\t{texts}\t{tokens}\n".encode()
        with self._lock:
            _add(self._pending, (day, key or "", model), (1, texts, tokens))
            if self._journal is not None:
                self._append(line)

    def flush(self) -> bool:
        """Store new records in SQLite; return whether that succeeded. Blocks: call it in a thread.

        Also takes over the journals of processes that have ended.
        """
        with self._flushing:
            if self._journal is None:
                with self._lock:
                    self._open_journal()
            with self._lock:
                pending, self._pending = self._pending, {}
                offset = self._written
            try:
                if pending:
                    self._store(pending, self._name, offset)
                    pending, self._stored = {}, offset
                self._adopt_orphans()
                self._rotate()
                self.working = self._journal is not None
            except (sqlite3.Error, OSError):
                self._failed()
                self._close_database()
                with self._lock:
                    for group, amount in pending.items():
                        _add(self._pending, group, amount)
            return self.working

    def totals(self, day: str, month: str) -> dict[str, tuple[int, int]]:
        """Return the tokens of each key on a day and in a month (2026-11-22 and 2026-11)."""
        totals: dict[str, tuple[int, int]] = {}
        try:
            for row in read_usage(self.folder, since=f"{month}-01", until=f"{month}-31"):
                before = totals.get(row.key, (0, 0))
                today = row.tokens if row.day == day else 0
                totals[row.key] = (before[0] + today, before[1] + row.tokens)
        except (sqlite3.Error, OSError):
            self._failed()
        return totals

    def close(self) -> None:
        """Flush, and remove the journal if all of it is in SQLite."""
        stored = self.flush()
        with self._flushing, self._lock:
            if self._journal is not None:
                if stored and self._stored == self._written:
                    try:
                        self._remove_journal(self._name)
                    except (sqlite3.Error, OSError):
                        self._failed()
                os.close(self._journal)
                self._journal = None
            self._close_database()

    def _today(self) -> str:
        now = int(time.time())
        if now // 86400 != self._day[0]:
            self._day = (now // 86400, time.strftime("%Y-%m-%d", time.gmtime(now)))
        return self._day[1]

    def _failed(self) -> None:
        self.failures += 1
        self.working = False

    def _open_journal(self) -> None:
        self._name = f"usage-{os.getpid()}-{secrets.token_hex(4)}.journal"
        self._written = self._stored = 0
        path = self.folder / self._name
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            self._journal = os.open(path, flags, 0o600)
            fcntl.flock(self._journal, fcntl.LOCK_EX)  # held until the process ends: it is alive
            if not path.exists():  # another process adopted it before it was locked
                os.close(self._journal)
                self._open_journal()
        except OSError:
            self._failed()
            self._journal = None

    def _append(self, line: bytes) -> None:
        assert self._journal is not None
        try:
            written = os.write(self._journal, line)
            if written < len(line):  # the disk is full: leave no half line
                os.ftruncate(self._journal, self._written)
                raise OSError("short write")
            self._written += written
        except OSError:
            self._failed()

    def _open_database(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = open_usage_database(self.folder)
        return self._database

    def _close_database(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _store(self, pending: dict[_Group, _Amount], journal: str, offset: int) -> None:
        with self._open_database() as database:  # one transaction
            database.executemany(_ADD, [(*group, *amount) for group, amount in pending.items()])
            database.execute("INSERT OR REPLACE INTO journals VALUES (?, ?)", (journal, offset))

    def _adopt_orphans(self) -> None:
        """Store the journals of processes that have ended, and remove them."""
        for path in self.folder.glob(_JOURNALS):
            if path.name == self._name:
                continue
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._adopt(path)
            except BlockingIOError:
                pass  # its process is alive
            finally:
                os.close(descriptor)

    def _adopt(self, path: Path) -> None:
        if not path.exists():  # another process was faster
            return
        query = "SELECT offset FROM journals WHERE name = ?"
        row = self._open_database().execute(query, (path.name,)).fetchone()
        content = _content(path)
        pending = _parse(content, row[0] if row else 0)
        if pending:
            self._store(pending, path.name, len(content))
        self._remove_journal(path.name)

    def _remove_journal(self, journal: str) -> None:
        (self.folder / journal).unlink(missing_ok=True)
        with self._open_database() as database:
            database.execute("DELETE FROM journals WHERE name = ?", (journal,))

    def _rotate(self) -> None:
        """Begin a new journal if the old one is long and all of it is stored."""
        with self._lock:
            if self._journal is None or self._written < ROTATE_BYTES:
                return
            if self._stored != self._written:
                return
            os.close(self._journal)
            name = self._name
            self._open_journal()
        self._remove_journal(name)


def _open_to_read(folder: Path) -> sqlite3.Connection:
    # in a read-only folder, SQLite reads a file in WAL mode only if it is declared immutable
    immutable = "" if os.access(folder, os.W_OK) else "&immutable=1"
    uri = f"file:{quote(str(folder / FILE))}?mode=ro{immutable}"
    return sqlite3.connect(uri, uri=True, timeout=5)


def open_usage_database(folder: Path) -> sqlite3.Connection:
    """Open the usage database of a folder for writing, and create it if there is none."""
    database = sqlite3.connect(folder / FILE, timeout=5, check_same_thread=False)
    try:
        os.chmod(folder / FILE, 0o600)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
    except (sqlite3.Error, OSError):
        database.close()
        raise
    return database


def _content(journal: Path) -> bytes:
    try:
        return journal.read_bytes()
    except FileNotFoundError:
        return b""


def _parse(content: bytes, offset: int) -> dict[_Group, _Amount]:
    """Sum up the lines of a journal from an offset; an incomplete line is left out."""
    totals: dict[_Group, _Amount] = {}
    for line in content[offset:].decode("utf-8", "replace").split("\n")[:-1]:
        cells = line.split("\t")
        if len(cells) == 5 and cells[3].isdecimal() and cells[4].isdecimal():
            day, key, model, texts, tokens = cells
            _add(totals, (day, key, model), (1, int(texts), int(tokens)))
    return totals


def _add(totals: dict[_Group, _Amount], group: _Group, amount: _Amount) -> None:
    before = totals.get(group, (0, 0, 0))
    totals[group] = (before[0] + amount[0], before[1] + amount[1], before[2] + amount[2])


def _plain(name: str) -> str:
    return name.replace("\t", " ").replace("\n", " ")
