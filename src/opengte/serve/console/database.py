"""The console's tables: in SQLite in the state folder, or in PostgreSQL by URL.

Both run the same statements, with `?` for values. What several processes change at once is changed
by one statement with its condition in it, or under the lock of a row.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from opengte.errors import InputError, MissingExtraError, ServiceError

FILE = "console.db"
T = TypeVar("T")
Row = tuple[Any, ...]
Execute = Callable[..., list[Row]]  # a statement and its values to the rows it returns

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS users (
        id TEXT PRIMARY KEY, issuer TEXT NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL,
        email TEXT NOT NULL, operator INTEGER NOT NULL, created DOUBLE PRECISION NOT NULL,
        epoch INTEGER NOT NULL, disabled INTEGER NOT NULL, UNIQUE (issuer, subject))""",
    """CREATE TABLE IF NOT EXISTS teams (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, created DOUBLE PRECISION NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS memberships (
        team TEXT NOT NULL, member TEXT NOT NULL, owner INTEGER NOT NULL,
        provider INTEGER NOT NULL, PRIMARY KEY (team, member))""",
    """CREATE TABLE IF NOT EXISTS links (
        hash TEXT PRIMARY KEY, member TEXT NOT NULL, expires DOUBLE PRECISION NOT NULL,
        used DOUBLE PRECISION)""",
    """CREATE TABLE IF NOT EXISTS audit (
        id TEXT PRIMARY KEY, time DOUBLE PRECISION NOT NULL, actor TEXT NOT NULL,
        action TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS credit (
        team TEXT PRIMARY KEY, granted BIGINT NOT NULL, used BIGINT NOT NULL,
        leased BIGINT NOT NULL, budget BIGINT, month TEXT NOT NULL, month_used BIGINT NOT NULL,
        alerted INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS ledger (
        id TEXT PRIMARY KEY, time DOUBLE PRECISION NOT NULL, team TEXT NOT NULL,
        amount BIGINT NOT NULL, kind TEXT NOT NULL, note TEXT NOT NULL, actor TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS leases (
        journal TEXT NOT NULL, team TEXT NOT NULL, amount BIGINT NOT NULL,
        PRIMARY KEY (journal, team))""",
    "CREATE TABLE IF NOT EXISTS journals (name TEXT PRIMARY KEY, shipped BIGINT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS uses (
        day TEXT NOT NULL, team TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
        requests BIGINT NOT NULL, tokens BIGINT NOT NULL, amount BIGINT NOT NULL,
        PRIMARY KEY (day, team, key, model))""",
    """CREATE TABLE IF NOT EXISTS calls (
        time DOUBLE PRECISION NOT NULL, team TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
        texts BIGINT NOT NULL, tokens BIGINT NOT NULL, amount BIGINT NOT NULL,
        milliseconds BIGINT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS calls_by_team ON calls (team, time)",
    "CREATE INDEX IF NOT EXISTS ledger_by_team ON ledger (team, time)",
)

APPEND_ONLY = ("audit", "ledger")
_KEEP_SQLITE = tuple(
    f"CREATE TRIGGER IF NOT EXISTS {table}_{change.lower()} BEFORE {change} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    for table in APPEND_ONLY
    for change in ("UPDATE", "DELETE")
)
_KEEP_POSTGRES = tuple(
    f"CREATE OR REPLACE RULE {table}_{change.lower()} AS ON {change} TO {table} DO INSTEAD NOTHING"
    for table in APPEND_ONLY
    for change in ("UPDATE", "DELETE")
)


class Database(Protocol):
    """Runs transactions; blocks, so that an event loop calls it in a thread."""

    def run(self, work: Callable[[Execute], T]) -> T:
        """Call work with what executes statements; commit, or roll back if it raises.

        Raises DatabaseError if the database cannot be reached.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class DatabaseError(ServiceError):
    """The database of the console cannot be used."""


class SqliteDatabase:
    """A file in the state folder, which all processes of this machine share."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                self.path, timeout=10, check_same_thread=False, isolation_level=None
            )
            os.chmod(self.path, 0o600)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"state_dir: {self.path} cannot be used: {error}") from error
        self.run(lambda execute: [execute(each) for each in (*SCHEMA, *_KEEP_SQLITE)])

    def run(self, work: Callable[[Execute], T]) -> T:
        """Run a transaction, which waits for those of other processes."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise DatabaseError(f"{self.path} cannot be used: {error}") from error
            try:
                result = work(self._execute)
                self._connection.execute("COMMIT")
                return result
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise DatabaseError(f"{self.path} cannot be used: {error}") from error
                raise

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


class PostgresDatabase:
    """Tables in a schema of their own, for many servers; connects again after a failure."""

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingExtraError("psycopg", "postgres", "a console in PostgreSQL") from None
        self._driver: Any = psycopg
        self._url = url
        self._lock = threading.Lock()
        self._connection: Any = None
        self.run(lambda execute: None)

    def run(self, work: Callable[[Execute], T]) -> T:
        """Run a transaction."""
        with self._lock:
            try:
                connection = self._connect()
                with connection.transaction(), connection.cursor() as cursor:

                    def execute(statement: str, values: Sequence[Any] = ()) -> list[Row]:
                        cursor.execute(statement.replace("?", "%s"), values)
                        return cursor.fetchall() if cursor.description else []

                    return work(execute)
            except self._driver.Error as error:
                if self._connection is not None and self._connection.broken:
                    self._connection = None
                raise DatabaseError(f"the console's database failed: {error}") from error

    def _connect(self) -> Any:
        if self._connection is None:
            connection = self._driver.connect(self._url, autocommit=True, connect_timeout=3)
            connection.execute("SET search_path TO opengte_console")
            # several servers may create the tables at once: one waits for the other
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(7340)")
                connection.execute("CREATE SCHEMA IF NOT EXISTS opengte_console")
                for statement in (*SCHEMA, *_KEEP_POSTGRES):
                    connection.execute(statement)
            self._connection = connection
        return self._connection

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def open_database(url: str | None, folder: Path) -> Database:
    """Open the console's tables: at a PostgreSQL URL, or in a folder.

    Raises InputError for another URL, DatabaseError if nothing answers there.
    """
    if url is None:
        return SqliteDatabase(folder)
    if not url.startswith(("postgresql://", "postgres://")):
        raise InputError(f"console_database: got {url!r}; expected postgresql://USER@HOST/NAME")
    return PostgresDatabase(url)
