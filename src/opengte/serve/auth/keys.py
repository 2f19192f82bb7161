"""API keys: stored as hashes in SQLite, read by every server process.

A key is `gte_<id>_<secret>`. The id is public: it names the key in lists, logs and usage records.
"""

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import string
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from opengte.errors import InputError, OpenGTEError
from opengte.serve.auth.state_files import DAMAGE, plain_errors

if TYPE_CHECKING:
    from opengte.serve.types import Priority

FILE = "keys.db"
_ID = string.ascii_lowercase + string.digits
_SECRET = string.ascii_letters + string.digits
_ID_LENGTH, _SECRET_LENGTH = 8, 43  # 43 of 62 letters: 256 bits
# never to remove it: without keys, a server answers everyone
REMEDY = "Restore it from a copy, or make new keys with `gte keys create` in another state_dir."
NEW_SECONDS = 1.0  # in which another process may still be creating the file
REFRESH_SECONDS = 0.5  # between two checks whether the file changed

SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    slot INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: its place in the rate limiter's memory
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    hash BLOB NOT NULL,
    old_hash BLOB,              -- after a rotation, until old_until
    old_until REAL,
    created REAL NOT NULL,
    expires REAL,
    revoked REAL,
    models TEXT,                -- JSON list; NULL: all
    priority TEXT NOT NULL DEFAULT 'interactive',
    requests_per_minute INTEGER,
    tokens_per_minute INTEGER,
    tokens_per_day INTEGER,
    tokens_per_month INTEGER,
    admin INTEGER NOT NULL DEFAULT 0,
    documents TEXT,             -- JSON list of conditions on documents; NULL: all
    team TEXT,                  -- whose credit pays; NULL: nobody's
    maker TEXT                  -- the user who made it; NULL: an operator
)
"""
_LATER_COLUMNS = ("documents", "team", "maker")  # files of older versions lack them


@dataclass(frozen=True)
class RateLimits:
    """How much a key may use; None is unlimited. Days and months are calendar ones in UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise InputError(f"{name}: got {value}; expected at least 1")

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return any(value is not None for value in vars(self).values())


@dataclass(frozen=True)
class ApiKey:
    """An API key; times are Unix times in seconds.

    where are conditions such as `tenant=acme`; of a knowledge base, the key sees only the documents
    that meet all of them.
    """

    slot: int
    id: str
    name: str
    hash: bytes
    old_hash: bytes | None
    old_until: float | None
    created: float
    expires: float | None
    revoked: float | None
    models: tuple[str, ...] | None
    priority: "Priority"
    limits: RateLimits
    admin: bool
    where: tuple[str, ...] = ()
    team: str | None = None
    maker: str | None = None

    def matches(self, digest: bytes, now: float) -> bool:
        """Return whether a secret with this hash is valid for the key, in constant time."""
        if hmac.compare_digest(digest, self.hash):
            return True
        if self.old_hash is None or self.old_until is None or now >= self.old_until:
            return False
        return hmac.compare_digest(digest, self.old_hash)

    def state(self, now: float) -> str:
        """Return `active`, `revoked` or `expired`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


def hash_key(secret: str) -> bytes:
    """Return the hash of a key, for storage.

    Plain SHA-256 without salt or stretching: those protect secrets that can be guessed, and a key
    has 256 random bits. A stolen file reveals no key, and a check costs a microsecond.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def key_id(secret: str) -> str | None:
    """Return the public id in a key, or None for a text of another form."""
    parts = secret.split("_")
    return parts[1] if len(parts) == 3 and parts[0] == "gte" else None


class KeyFile:
    """The file of keys in a state folder, for `gte keys`, which changes them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def create(
        self,
        name: str,
        *,
        models: tuple[str, ...] | None = None,
        priority: "Priority" = "interactive",
        limits: RateLimits | None = None,
        expires: float | None = None,
        admin: bool = False,
        where: tuple[str, ...] = (),
        team: str | None = None,
        maker: str | None = None,
    ) -> tuple[ApiKey, str]:
        """Create a key; return it and the secret, which is not stored."""
        id, secret = _new_secret()
        limits = limits or RateLimits()
        with self._writing() as database:
            database.execute(
                "INSERT INTO keys (id, name, hash, created, expires, models, priority, admin,"
                " documents, requests_per_minute, tokens_per_minute, tokens_per_day,"
                " tokens_per_month, team, maker)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    id,
                    name,
                    hash_key(secret),
                    time.time(),
                    expires,
                    None if models is None else json.dumps(models),
                    priority,
                    admin,
                    json.dumps(where) if where else None,
                    *vars(limits).values(),
                    team,
                    maker,
                ),
            )
        return self.find(id), secret

    def list(self) -> list[ApiKey]:
        """Return all keys, oldest first; none if there is no file."""
        if not self.path.exists():
            return []
        with self._plain_errors(), closing(_open_to_read(self.path)) as database:
            return read_keys(database, NEW_SECONDS)

    def find(self, name: str) -> ApiKey:
        """Return the key with this id, or with this name; InputError unless it is exactly one."""
        keys = self.list()
        matches = [key for key in keys if key.id == name]
        matches = matches or [key for key in keys if key.name == name and key.revoked is None]
        if len(matches) == 1:
            return matches[0]
        if matches:
            ids = ", ".join(key.id for key in matches)
            raise InputError(f"key: {len(matches)} keys are called `{name}`; give an id: {ids}")
        raise InputError(f"key: there is no key `{name}` in {self.path}; see `gte keys list`")

    def revoke(self, name: str) -> ApiKey:
        """Revoke a key now; its usage records stay."""
        key = self.find(name)
        with self._writing() as database:
            database.execute(
                "UPDATE keys SET revoked = coalesce(revoked, ?), old_hash = NULL WHERE id = ?",
                (time.time(), key.id),
            )
        return self.find(key.id)

    def revoke_made_by(self, user: str) -> None:
        """Revoke every key that a user made."""
        for key in self.list():
            if key.maker == user and key.revoked is None:
                self.revoke(key.id)

    def rotate(self, name: str, grace: float = 0.0) -> tuple[ApiKey, str]:
        """Give a key a new secret and return both; the old secret works for `grace` seconds."""
        key = self.find(name)
        if key.revoked is not None:
            raise InputError(f"key: `{key.id}` is revoked; make a new one with `gte keys create`")
        _, secret = _new_secret(key.id)
        with self._writing() as database:
            database.execute(
                "UPDATE keys SET old_hash = hash, old_until = ?, hash = ? WHERE id = ?",
                (time.time() + grace, hash_key(secret), key.id),
            )
        return self.find(key.id), secret

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a transaction, which is in the main file afterwards."""
        with self._plain_errors(), self._transaction() as database:
            yield database

    def _plain_errors(self) -> AbstractContextManager[None]:
        return plain_errors(self.path, "API keys", REMEDY)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = not self.path.exists()
        with closing(sqlite3.connect(self.path, timeout=10)) as database:
            if new:
                os.chmod(self.path, 0o600)
            else:
                read_keys(
                    database, NEW_SECONDS
                )  # of a file that lost its table, nothing may be made anew
                database.row_factory = None
            database.execute("PRAGMA journal_mode = WAL")
            with database:
                database.execute(SCHEMA)
                columns = [row[1] for row in database.execute("PRAGMA table_info(keys)")]
                for column in _LATER_COLUMNS:
                    if column not in columns:
                        database.execute(f"ALTER TABLE keys ADD COLUMN {column} TEXT")
                yield database
            # so that a copy without the WAL file, as in a Kubernetes secret, is complete
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class KeyRing:
    """The keys of a server process: cached in memory, at most a second behind the file."""

    def __init__(self, folder: Path, static: str | None = None) -> None:
        """Read the keys of a folder; static is one more key, without limits.

        Raises InputError for a file that cannot be read.
        """
        self.path = folder / FILE
        self.failures = 0  # of reads of the file; the keys known before stay valid
        self.working = True
        self.problem = ""  # of the last read that failed
        self._static = None if static is None else hash_key(static)
        self._database: sqlite3.Connection | None = None
        self._version: Any = None  # of the file that the keys were read from
        self._keys: dict[str, ApiKey] = {}
        self._checked = -1e9
        self.refresh(NEW_SECONDS)
        if not self.working:  # without its keys, a server would be open to everyone
            raise InputError(
                f"state_dir: cannot read the keys in {self.path}: {self.problem}. {REMEDY}"
            )

    @property
    def key_needed(self) -> bool:
        """Whether requests must carry a key: as soon as one was created, even if it is revoked."""
        self._refresh_if_due()
        return self._static is not None or bool(self._keys)

    def find(self, secret: str) -> ApiKey | None:
        """Return the key with this secret, or None; revoked and expired keys are found too."""
        self._refresh_if_due()
        digest = hash_key(secret)
        if self._static is not None and hmac.compare_digest(digest, self._static):
            return STATIC_KEY
        key = self._keys.get(key_id(secret) or "")
        return key if key is not None and key.matches(digest, time.time()) else None

    def all(self) -> list[ApiKey]:
        """Return the keys in the file."""
        return list(self._keys.values())

    def _refresh_if_due(self) -> None:
        if time.monotonic() - self._checked > REFRESH_SECONDS:
            self.refresh()

    def refresh(self, wait: float = 0.0) -> None:
        """Read the keys again if the file changed; wait for one that is being created."""
        self._checked = time.monotonic()
        try:
            if not self._changed():
                return
            assert self._database is not None
            self._keys = {key.id: key for key in read_keys(self._database, wait)}
            self.working = True
        except (OpenGTEError, *DAMAGE) as error:
            self.problem = str(error)
            self.failures += 1
            self.working = False
            self.close()

    def _changed(self) -> bool:
        """Return whether it is another file, or this one was written to."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False  # the known keys stay valid: removing the file must not open the server
        file: tuple[int, ...] = (status.st_dev, status.st_ino)
        if not os.access(self.path.parent, os.W_OK):
            file += (status.st_mtime_ns,)  # opened as immutable: data_version would not change
        if self._database is None or self._version[0] != file:
            self.close()
            self._database = _open_to_read(self.path)
            self._version = (file, None)
        data_version = self._database.execute("PRAGMA data_version").fetchone()[0]
        changed = bool(self._version[1] != data_version)
        self._version = (file, data_version)
        return changed

    def close(self) -> None:
        """Close the file; the keys stay in memory."""
        if self._database is not None:
            self._database.close()
            self._database = None
        self._version = None


def read_keys(database: sqlite3.Connection, wait: float = 0.0) -> list[ApiKey]:
    """Return all keys in an open file, oldest first.

    A file without the table was either created a moment ago, or is damaged. After `wait` seconds
    that is an error: taken as a file without keys, it would open the server to everyone.
    """
    database.row_factory = sqlite3.Row
    until = time.monotonic() + wait
    while True:
        try:
            return [_key(row) for row in database.execute("SELECT * FROM keys ORDER BY slot")]
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error) or time.monotonic() >= until:
                raise
            time.sleep(0.01)


def _key(row: sqlite3.Row) -> ApiKey:
    limits = RateLimits(*(row[name] for name in RateLimits.__dataclass_fields__))
    same = ("slot", "id", "name", "hash", "old_hash", "old_until", "created", "expires", "revoked")
    return ApiKey(
        **{name: row[name] for name in same},
        models=None if row["models"] is None else tuple(json.loads(row["models"])),
        priority=row["priority"],
        limits=limits,
        admin=bool(row["admin"]),
        where=tuple(json.loads(_later(row, "documents") or "[]")),
        team=_later(row, "team"),
        maker=_later(row, "maker"),
    )


def _later(row: sqlite3.Row, column: str) -> str | None:
    # a file of an older version lacks the column until it is written to
    return row[column] if column in row.keys() else None


def _open_to_read(path: Path) -> sqlite3.Connection:
    """Open a file of keys for reading, also on a read-only volume."""
    # in a read-only folder, SQLite reads a file in WAL mode only if it is declared immutable
    immutable = "" if os.access(path.parent, os.W_OK) else "&immutable=1"
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro{immutable}", uri=True, timeout=1, check_same_thread=False
    )


def _new_secret(id: str | None = None) -> tuple[str, str]:
    id = id or "".join(secrets.choice(_ID) for _ in range(_ID_LENGTH))
    return id, f"gte_{id}_" + "".join(secrets.choice(_SECRET) for _ in range(_SECRET_LENGTH))


# the key of `--api-key`
STATIC_KEY = ApiKey(
    slot=0,
    id="static",
    name="--api-key",
    hash=b"",
    old_hash=None,
    old_until=None,
    created=0.0,
    expires=None,
    revoked=None,
    models=None,
    priority="interactive",
    limits=RateLimits(),
    admin=True,
)
