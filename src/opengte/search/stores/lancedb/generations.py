"""Generations of an index at one place, and the pointer to the live one, which moves atomically.

Each generation is complete and has a model of its own. In a folder the pointer is a file that is
replaced, and writers share a lock that a migration takes exclusively, so nothing is written to a
generation that is no longer live. In a bucket the pointer is a table of one row; there are no
locks, so writers check the pointer again after they wrote.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from opengte.errors import InputError
from opengte.search.parse.walk import INDEX_MARKER

try:
    import fcntl
except ImportError:  # Windows: the pointer alone is looked at
    fcntl = None  # type: ignore[assignment]

FIRST = "lance"  # of an index that was never switched
POINTER_FILE, MIGRATION_LOCK, DROPPED = "generation.json", "switch.lock", "dropped-"
SETTINGS_LOCK = "settings.lock"
BUCKETS = ("s3", "gs", "az")
StorageOptions = Mapping[str, str] | None


@dataclass(frozen=True)
class Pointer:
    """The live generation, and the one before it if it is still there."""

    current: str = FIRST
    previous: str | None = None


def is_remote(place: str) -> bool:
    """Return whether a place is a bucket, where there are no locks."""
    return "://" in place


def read_pointer(place: str, options: StorageOptions = None) -> Pointer:
    """Return the pointer of a place."""
    if is_remote(place):
        return _read_table(place, options)
    try:
        with open(os.path.join(place, POINTER_FILE), encoding="utf-8") as file:
            values = json.load(file)
        return Pointer(values["current"], values["previous"])
    except FileNotFoundError:
        return Pointer()
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"`{os.path.join(place, POINTER_FILE)}` is damaged: {error}") from error


def write_pointer(place: str, pointer: Pointer, options: StorageOptions = None) -> None:
    """Move the pointer: afterwards every reader that opens the place sees the other generation."""
    if is_remote(place):
        _write_table(place, pointer, options)
        return
    final = os.path.join(place, POINTER_FILE)
    part = f"{final}.part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(asdict(pointer), file)
        file.flush()
        os.fsync(file.fileno())
    _flush(place)  # the folder of the new generation is on the disk before something points at it
    os.replace(part, final)
    _flush(place)


def generation_exists(place: str, name: str) -> bool:
    """Return whether there may be a generation of this name; opening one would make its folder."""
    return is_remote(place) or os.path.isdir(os.path.join(place, name))


def pointer_stat(place: str) -> tuple[int, ...]:
    """Return what changes when the pointer of a folder moves; costs a look at one file."""
    try:
        found = os.stat(os.path.join(place, POINTER_FILE))
    except FileNotFoundError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


class LiveGeneration:
    """The pointer of a place as it was when an index was opened there, and whether it still holds.

    remote is True for a bucket, where every check reads a table; in a folder a check is one `stat`.
    """

    def __init__(self, place: str, options: StorageOptions = None) -> None:
        self.place = place
        self.options = options
        self.remote = is_remote(place)
        self._stat = () if self.remote else pointer_stat(place)
        self.pointer = read_pointer(place, options)
        self._unchanged = True

    def is_current(self) -> bool:
        """Return whether the pointer still names the same generation."""
        stat = () if self.remote else pointer_stat(self.place)
        if self.remote or stat != self._stat:
            current = read_pointer(self.place, self.options).current
            self._unchanged = current == self.pointer.current
            self._stat = stat
        return self._unchanged


def live_generation(place: str, options: StorageOptions = None) -> LiveGeneration | None:
    """Return the live generation of a place; None where the store cannot hold several."""
    scheme = place.partition("://")[0] if is_remote(place) else ""
    return LiveGeneration(place, options) if scheme in ("", *BUCKETS) else None


@contextlib.contextmanager
def write_lock(place: str, name: str) -> Iterator[None]:
    """Hold a generation of a folder while a commit is made; InputError if it is not the live one.

    Many may write at a time; a switch waits for them, and they for it.
    """
    with _locked(os.path.join(place, INDEX_MARKER), exclusive=False):
        if read_pointer(place).current != name:
            error = InputError(f"the index `{place}` was switched to another model meanwhile")
            error.add_note("nothing that was committed before is lost; run the same again")
            raise error
        yield


def exclusive_lock(place: str) -> contextlib.AbstractContextManager[None]:
    """Exclude all writers of a folder."""
    if is_remote(place):
        return contextlib.nullcontext()
    return _locked(os.path.join(place, INDEX_MARKER), exclusive=True)


@contextlib.contextmanager
def settings_lock(place: str) -> Iterator[None]:
    """Exclude others that change the settings of an index in a folder; elsewhere there is none."""
    if is_remote(place):
        yield
        return
    path = os.path.join(place, SETTINGS_LOCK)
    with open(path, "a"):
        pass
    with _locked(path, exclusive=True):
        yield


@contextlib.contextmanager
def migration_lock(place: str) -> Iterator[None]:
    """Hold the lock of migrations of a folder; InputError if another process holds it."""
    if is_remote(place):
        yield
        return
    path = os.path.join(place, MIGRATION_LOCK)
    with open(path, "a"):
        pass
    try:
        with _locked(path, exclusive=True, wait=False):
            yield
    except BlockingIOError:
        raise InputError(
            f"another process is switching the index `{place}`: wait for it, or end it first"
        ) from None


def drop_unreferenced(
    place: str, pointer: Pointer, before: Pointer, options: StorageOptions = None
) -> list[str]:
    """Remove what the pointer does not name any more, and remains of switches that were given up.

    Return the names of what was removed. In a bucket only the generations of the pointer before
    are looked at: its folders are not listed.
    """
    keep = {pointer.current, pointer.previous}
    if is_remote(place):
        return _drop_remote(place, {before.current, before.previous} - keep - {None}, options)
    gone = []
    for name in sorted(os.listdir(place)):
        path = os.path.join(place, name)
        mine = name == FIRST or name.startswith((f"{FIRST}-", DROPPED))
        if not mine or name in keep or not os.path.isdir(path):
            continue
        if not name.startswith(DROPPED):
            gone.append(name)
            os.replace(path, path := os.path.join(place, DROPPED + name))  # never half a generation
        shutil.rmtree(path, ignore_errors=True)
    return gone


@contextlib.contextmanager
def _locked(path: str, *, exclusive: bool, wait: bool = True) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if fcntl is not None:
            kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _flush(folder: str) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        with contextlib.suppress(OSError):  # a file system without fsync
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- buckets -------------------------------------------------------------------------------------


def _database(place: str, name: str, options: StorageOptions) -> Any:
    import lancedb

    return lancedb.connect(f"{place.rstrip('/')}/{name}", storage_options=dict(options or {}))


def _pointer_table(place: str, options: StorageOptions) -> Any:
    try:
        return _database(place, "generations", options).open_table("pointer")
    except (ValueError, FileNotFoundError):  # what LanceDB raises for a missing table
        return None


def _read_table(place: str, options: StorageOptions) -> Pointer:
    table = _pointer_table(place, options)
    rows = [] if table is None else table.search().limit(2).to_list()
    return Pointer(rows[0]["current"], rows[0]["previous"]) if rows else Pointer()


def _write_table(place: str, pointer: Pointer, options: StorageOptions) -> None:
    import pyarrow as pa

    columns = pa.schema([(name, pa.string()) for name in ("key", "current", "previous")])
    row = pa.Table.from_pylist([{"key": "pointer", **asdict(pointer)}], schema=columns)
    database = _database(place, "generations", options)
    table = database.create_table("pointer", schema=columns, exist_ok=True)
    merge = table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all()
    try:
        merge.execute(row)
    except (OSError, RuntimeError) as error:
        raise OSError(f"cannot write to `{place}`: {' '.join(str(error).split())[:300]}") from error


def _drop_remote(place: str, names: set[str | None], options: StorageOptions) -> list[str]:
    dropped = set()
    for name in sorted(filter(None, names)):
        database = _database(place, name, options)
        for table in ("settings", "windows", "sources"):  # without settings it is no index
            with contextlib.suppress(ValueError, FileNotFoundError):
                database.drop_table(table)
                dropped.add(name)
    return sorted(dropped)
