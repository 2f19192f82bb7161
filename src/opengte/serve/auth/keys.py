"""API keys: made once, kept as hashes in SQLite, read by every server process.

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
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from opengte.errors import InputError

if TYPE_CHECKING:
    from opengte.serve.types import Priority

FILE = "keys.db"
_ID = string.ascii_lowercase + string.digits
_SECRET = string.ascii_letters + string.digits
_ID_LENGTH, _SECRET_LENGTH = 8, 43  # 43 of 62 letters: 256 bits
_FRESH = 0.5  # seconds before the file is asked again whether it changed

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    slot INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: a place in the table of rate limits
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
    documents TEXT              -- JSON list of conditions on documents; NULL: all
)
"""
_ADDED = "ALTER TABLE keys ADD COLUMN documents TEXT"  # to files of before there was this column


@dataclass(frozen=True)
class Limits:
    """How much a key may use; None: as much as it likes. Days and months are UTC's."""

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
        """Return whether there is a limit at all."""
        return any(value is not None for value in vars(self).values())


@dataclass(frozen=True)
class Key:
    """What is known of a key; times are seconds since 1970.

    where are conditions such as `tenant=acme`, all of which a document of a knowledge base must fit
    to exist for this key.
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
    limits: Limits
    admin: bool
    where: tuple[str, ...] = ()

    def opens(self, digest: bytes, now: float) -> bool:
        """Return whether a secret with this hash is this key's, in constant time."""
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


def digest(secret: str) -> bytes:
    """Hash a key for keeping.

    Plain SHA-256 without salt or stretching: those defend secrets that can be guessed, and this one
    is 256 random bits. A stolen file gives no key back, and the check costs a microsecond.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def id_of(secret: str) -> str | None:
    """Return the public id in a key, or None for what is not one of ours."""
    parts = secret.split("_")
    return parts[1] if len(parts) == 3 and parts[0] == "gte" else None


class KeyFile:
    """The keys of a state folder, for those who change them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def create(
        self,
        name: str,
        *,
        models: tuple[str, ...] | None = None,
        priority: "Priority" = "interactive",
        limits: Limits | None = None,
        expires: float | None = None,
        admin: bool = False,
        where: tuple[str, ...] = (),
    ) -> tuple[Key, str]:
        """Make a key; return it and the secret, which is not kept."""
        id, secret = _new_secret()
        limits = limits or Limits()
        with self._writing() as database:
            database.execute(
                "INSERT INTO keys (id, name, hash, created, expires, models, priority, admin,"
                " documents, requests_per_minute, tokens_per_minute, tokens_per_day,"
                " tokens_per_month) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    id,
                    name,
                    digest(secret),
                    time.time(),
                    expires,
                    None if models is None else json.dumps(models),
                    priority,
                    admin,
                    json.dumps(where) if where else None,
                    *vars(limits).values(),
                ),
            )
        return self.find(id), secret

    def list(self) -> list[Key]:
        """Return all keys, oldest first; none where there is no file."""
        if not self.path.exists():
            return []
        with closing(_open_to_read(self.path)) as database:
            return read_keys(database)

    def find(self, name: str) -> Key:
        """Return the key of this id, or of this name where only one has it."""
        keys = self.list()
        found = [key for key in keys if key.id == name]
        found = found or [key for key in keys if key.name == name and key.revoked is None]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(key.id for key in found)
            raise InputError(f"key: {len(found)} keys are called `{name}`; give an id: {ids}")
        raise InputError(f"key: there is no key `{name}` in {self.path}; see `gte keys list`")

    def revoke(self, name: str) -> Key:
        """End a key now; its records stay."""
        key = self.find(name)
        with self._writing() as database:
            database.execute(
                "UPDATE keys SET revoked = coalesce(revoked, ?), old_hash = NULL WHERE id = ?",
                (time.time(), key.id),
            )
        return self.find(key.id)

    def rotate(self, name: str, grace: float = 0.0) -> tuple[Key, str]:
        """Give a key a new secret; the old one works for `grace` more seconds."""
        key = self.find(name)
        if key.revoked is not None:
            raise InputError(f"key: `{key.id}` is revoked; make a new one with `gte keys create`")
        _, secret = _new_secret(key.id)
        with self._writing() as database:
            database.execute(
                "UPDATE keys SET old_hash = hash, old_until = ?, hash = ? WHERE id = ?",
                (time.time() + grace, digest(secret), key.id),
            )
        return self.find(key.id), secret

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a transaction; the file holds all of it afterwards."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = not self.path.exists()
        with closing(sqlite3.connect(self.path, timeout=10)) as database:
            if new:
                os.chmod(self.path, 0o600)
            database.execute("PRAGMA journal_mode = WAL")
            with database:
                database.execute(_SCHEMA)
                columns = [row[1] for row in database.execute("PRAGMA table_info(keys)")]
                if "documents" not in columns:
                    database.execute(_ADDED)
                yield database
            # a copy of the file alone, as into a Kubernetes secret, is then complete
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class KeyRing:
    """The keys as a server process sees them: in memory, and never older than a second."""

    def __init__(self, folder: Path, static: str | None = None) -> None:
        """Read the keys of a folder; static is one more key, without limits."""
        self.path = folder / FILE
        self.failures = 0  # times that the file could not be read; the keys known before still hold
        self.working = True
        self._static = None if static is None else digest(static)
        self._database: sqlite3.Connection | None = None
        self._seen: Any = None
        self._keys: dict[str, Key] = {}
        self._checked = -1e9
        self.refresh()
        if not self.working:  # without its keys a server would be open to everyone
            raise InputError(
                f"state_dir: cannot read the keys in {self.path}; restore the file, or remove it "
                "to start without keys"
            )

    @property
    def needed(self) -> bool:
        """Return whether requests must show a key: since the first was made, revoked or not."""
        self._look()
        return self._static is not None or bool(self._keys)

    def find(self, secret: str) -> Key | None:
        """Return the key that a secret opens, or None; revoked and expired ones too."""
        self._look()
        hashed = digest(secret)
        if self._static is not None and hmac.compare_digest(hashed, self._static):
            return STATIC
        key = self._keys.get(id_of(secret) or "")
        return key if key is not None and key.opens(hashed, time.time()) else None

    def all(self) -> list[Key]:
        """Return the keys of the file."""
        return list(self._keys.values())

    def _look(self) -> None:
        if time.monotonic() - self._checked > _FRESH:
            self.refresh()

    def refresh(self) -> None:
        """Read the keys again where the file has changed."""
        self._checked = time.monotonic()
        try:
            if not self._changed():
                return
            assert self._database is not None
            self._keys = {key.id: key for key in read_keys(self._database)}
            self.working = True
        except (sqlite3.Error, OSError):
            self.failures += 1
            self.working = False
            self._close()

    def _changed(self) -> bool:
        """Return whether the keys must be read: another file, or another state of this one."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False  # removed: what was known holds, so that this opens no door
        place: tuple[int, ...] = (status.st_dev, status.st_ino)
        if not os.access(self.path.parent, os.W_OK):
            place += (status.st_mtime_ns,)  # opened as unchanging: another time, another file
        if self._database is None or self._seen[0] != place:
            self._close()
            self._database = _open_to_read(self.path)
            self._seen = (place, None)
        version = self._database.execute("PRAGMA data_version").fetchone()[0]
        changed = bool(self._seen[1] != version)
        self._seen = (place, version)
        return changed

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        self._seen = None

    close = _close


def read_keys(database: sqlite3.Connection) -> list[Key]:
    """Return all keys of an open file, oldest first."""
    database.row_factory = sqlite3.Row
    try:
        rows = database.execute("SELECT * FROM keys ORDER BY slot").fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # made a moment ago
            return []
        raise
    return [_key(row) for row in rows]


def _key(row: sqlite3.Row) -> Key:
    limits = Limits(*(row[name] for name in Limits.__dataclass_fields__))
    same = ("slot", "id", "name", "hash", "old_hash", "old_until", "created", "expires", "revoked")
    return Key(
        **{name: row[name] for name in same},
        models=None if row["models"] is None else tuple(json.loads(row["models"])),
        priority=row["priority"],
        limits=limits,
        admin=bool(row["admin"]),
        where=_conditions(row),
    )


def _conditions(row: sqlite3.Row) -> tuple[str, ...]:
    # a file that was made before there were conditions has no such column until it is written
    value = row["documents"] if "documents" in row.keys() else None
    return () if value is None else tuple(json.loads(value))


def _open_to_read(path: Path) -> sqlite3.Connection:
    """Open a file of keys to read; one on a read-only volume too."""
    # a file in WAL mode can be read through a read-only folder only when it is said not to change
    fixed = "" if os.access(path.parent, os.W_OK) else "&immutable=1"
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro{fixed}", uri=True, timeout=1, check_same_thread=False
    )


def _new_secret(id: str | None = None) -> tuple[str, str]:
    id = id or "".join(secrets.choice(_ID) for _ in range(_ID_LENGTH))
    return id, f"gte_{id}_" + "".join(secrets.choice(_SECRET) for _ in range(_SECRET_LENGTH))


# the key of `--api-key`
STATIC = Key(
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
    limits=Limits(),
    admin=True,
)
