"""Connections to one schema of a PostgreSQL database: kept open, used by one thread at a time."""

import contextlib
import re
import threading
import weakref
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from opengte.errors import InputError, MissingExtraError
from opengte.search.stores.postgres.schema import document_key
from opengte.search.stores.url import hide_password

SCHEMA = "opengte"
LOCK = 0x6F70656E  # of writers, beside the schema's own number


class ConnectionPool:
    """Cursors of transactions that read one version of everything, or write alone."""

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingExtraError("psycopg", "postgres", "An index in PostgreSQL") from None
        self._psycopg = psycopg
        self._url, self.schema = _parsed(url)
        self.uri = hide_password(url)
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._idle)  # nobody has to close a knowledge base

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """Return what one statement reads."""
        with self.reading() as cursor:
            cursor.execute(statement, list(values))
            found: list[Any] = cursor.fetchall()
            return found

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """Give a cursor that sees one version of everything."""
        with self._connection() as connection:
            cursor = connection.cursor()
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield cursor

    @contextlib.contextmanager
    def writing(self) -> Iterator[Any]:
        """Give a cursor of one transaction, in which no other writer of this index is."""
        with self._connection() as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", self._numbers(0))
            yield cursor
            connection.commit()

    def has(self, name: str) -> bool:
        """Return whether a table or an index is in this schema, whatever others there are."""
        return bool(self.rows("SELECT to_regclass(%s) IS NOT NULL", self.own(name))[0][0])

    def own(self, name: str) -> str:
        """Return the whole name of a table or an index of this schema."""
        return f"{self.schema}.{name}"

    def analyze(self) -> None:
        """Count values anew in tables that changed by more than a fifth: plans rely on it."""
        with self.writing() as cursor:
            cursor.execute(
                "SELECT relname FROM pg_stat_user_tables WHERE schemaname = %s "
                "AND n_mod_since_analyze > 1000 + n_live_tup / 5",
                [self.schema],
            )
            for (name,) in cursor.fetchall():
                cursor.execute(f"ANALYZE {self.own(name)}")

    def make_index(self, name: str, statement: str) -> None:
        """Make an index unless it is there, or another process is at it; mend one that failed.

        The statement is CREATE INDEX CONCURRENTLY: it is in no transaction, and nobody waits.
        """
        with self._connection() as connection:
            connection.autocommit = True
            try:
                cursor = connection.cursor()
                cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", self._numbers(1))
                if not cursor.fetchone()[0]:
                    return
                try:
                    cursor.execute(
                        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)",
                        [self.own(name)],
                    )
                    found = cursor.fetchone()
                    if found and not found[0]:
                        cursor.execute(f"DROP INDEX {self.own(name)}")
                    if not found or not found[0]:
                        cursor.execute(statement)
                finally:
                    cursor.execute("SELECT pg_advisory_unlock(%s, %s)", self._numbers(1))
            finally:
                connection.autocommit = False

    def _numbers(self, purpose: int) -> list[int]:
        return [
            LOCK + purpose,
            int.from_bytes(document_key(self.schema).bytes[:4], "big", signed=True),
        ]

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        """Give a connection that nobody else uses; what is not committed is rolled back.

        After an error nobody gets that connection again.
        """
        connection = None
        try:
            connection = self._taken()
            yield connection
            connection.rollback()
        except self._psycopg.OperationalError as error:
            self.close()  # the others are most likely as dead as this one
            raise OSError(f"`{self.uri}`: {_reason(error)}") from error
        except self._psycopg.Error as error:
            raise InputError(f"`{self.uri}`: {_reason(error)}") from error
        else:
            with self._lock:
                self._idle.append(connection)
            connection = None
        finally:
            if connection is not None:
                connection.close()

    def _taken(self) -> Any:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        connection = self._psycopg.connect(self._url, prepare_threshold=None)
        row = connection.execute(
            "SELECT quote_ident(nspname) FROM pg_extension e JOIN pg_namespace n "
            "ON n.oid = e.extnamespace WHERE extname = 'vector'"
        ).fetchone()
        connection.execute(f"SET search_path TO {self.schema}, {row[0] if row else 'public'}")
        connection.execute("SET jit = off")  # it takes longer than these searches do
        connection.commit()
        return connection

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            _close(self._idle)


def _close(connections: list[Any]) -> None:
    while connections:
        connections.pop().close()


def _parsed(url: str) -> tuple[str, str]:
    """Return the URL as PostgreSQL takes it, and the schema that it names."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = options.pop("schema", SCHEMA)
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema) or schema.startswith("pg_"):
        raise InputError(
            f"schema is {schema!r}, expected small letters, digits and _, at most 63 of them"
        )
    return urlunsplit(parts._replace(query=urlencode(options))), schema


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
