"""Check an index: every file by its checksum, every document by its hash; mend what can be mended.

Search indexes are made again. A table with damaged files is copied, without what cannot be trusted,
into a new generation, and the pointer moves to it; what is missing then is read again from its
files. A check that is killed has changed nothing, or all.
"""

import contextlib
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from opengte.errors import DamagedIndexError, InputError
from opengte.search.index import Index, LoadEncoder, index_exists, mark_folder
from opengte.search.ingest.pipeline import ADDED, IngestOptions, index_files
from opengte.search.ingest.writer import content_hash
from opengte.search.parse import walk
from opengte.search.stores.base import SourceFile, Store, StoredDocument
from opengte.search.stores.lancedb import checksums, damage, generations
from opengte.search.stores.lancedb.store import LanceStore, open_store

DROPPED = 100  # documents that are removed in one commit


@dataclass
class CheckReport:
    """What a check found and did: damage is (file, reason), mended and lost are sentences."""

    files: int = 0
    documents: int = 0
    damage: list[tuple[str, str]] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unread: int = 0  # windows that could not be read


def check_index(
    place: str, load: LoadEncoder | None = None, options: Any = None, *, repair: bool = True
) -> CheckReport:
    """Check an index, and mend it unless that is not wanted.

    Raises InputError where there is no index, DamagedIndexError where nothing is left of its
    settings.
    """
    report, doubtful = CheckReport(), list[StoredDocument]()
    if not index_exists(place):
        raise InputError(f"`{place}` is not an index")
    if "://" not in place:
        doubtful = _check_folder(place, report, repair=repair)
        if report.damage and not repair:
            return report
    index = Index.open(place, load=load, storage_options=options)
    stale = check_documents(index.store, report, repair=repair)
    before = index.store.health().windows
    if repair and doubtful:
        _embed_again(index, doubtful, report)
        stale = check_documents(index.store, CheckReport(), repair=True)
    if repair and stale:
        _read_again(index, report)
    missing = report.unread - (index.store.health().windows - before)
    if missing > 0:
        report.lost.append(
            f"up to {missing:,} windows of documents that came from no file: add those again"
        )
    report.documents = index.store.count()
    return report


# --- files ---------------------------------------------------------------------------------------


def _check_folder(place: str, report: CheckReport, *, repair: bool) -> list[StoredDocument]:
    """Check the files of an index; return documents whose text is right and vectors are not."""
    marker = os.path.join(place, walk.INDEX_MARKER)
    if not os.path.isfile(marker) or not os.path.getsize(marker):
        report.damage.append((walk.INDEX_MARKER, "missing"))
        if repair:
            mark_folder(place)
            report.mended.append(f"wrote {walk.INDEX_MARKER}")
    pointer = _check_pointer(place, report, repair=repair)
    for name in filter(None, (pointer.previous, pointer.current)):
        folder = os.path.join(place, name)
        report.files += len(list(checksums.table_files(folder)))
        found = damage.damaged_files(folder)
        _check_copies(folder, name, report, repair=repair)
        report.damage += [(f"{name}/{x.path}", f"{x.kind}: {x.reason}") for x in found]
        if not found or not repair:
            continue
        if _make_readable(folder, found):
            report.mended.append("gave the owner permission to read and write")
            found = damage.damaged_files(folder)
        if not found:
            continue
        if name == pointer.previous:
            pointer = generations.Pointer(pointer.current, None)
            with generations.exclusive_lock(place):
                generations.write_pointer(place, pointer)
            generations.drop_unreferenced(place, pointer, pointer)
            report.mended.append("removed the earlier generation: a rollback is not possible")
        elif not all(x.kind == "search index" for x in found) or not _remake_indexes(
            place, folder, found, report
        ):
            return _copy_readable(place, pointer, found, report)
    return []


def _check_copies(folder: str, name: str, report: CheckReport, *, repair: bool) -> None:
    """Check the recorded checksums, and the second copy of the settings."""
    if (problem := checksums.journal_problem(folder)) is not None:
        report.damage.append((f"{name}/{checksums.CHECKSUMS}", problem))
        if repair:
            checksums.renew(folder)
            report.mended.append("recorded the checksums of all files as they are now")
    copies = os.path.join(folder, checksums.COPIES)
    if not os.path.isdir(copies) or checksums.kept_settings(folder) is not None:
        return
    report.damage.append((f"{name}/{checksums.COPIES}/{checksums.SETTINGS_COPY}", "damaged"))
    with contextlib.suppress(Exception):  # the table of settings is damaged too, which is told
        settings = LanceStore(folder, durable=False).settings()
        if repair and settings is not None:
            checksums.keep_settings(folder, settings)
            report.mended.append("wrote the second copy of the settings")


def _check_pointer(place: str, report: CheckReport, *, repair: bool) -> generations.Pointer:
    names = [x for x in os.listdir(place) if x.startswith(generations.FIRST)]
    there = [x for x in names if os.path.isdir(os.path.join(place, x))]
    try:
        pointer = generations.read_pointer(place)
        if pointer.current in there:
            return pointer
        reason = f"names `{pointer.current}`, which is missing"
    except (InputError, OSError) as error:
        reason = str(error)
    report.damage.append((generations.POINTER_FILE, reason))
    if not there:
        raise DamagedIndexError(
            f"the index `{place}` has lost its tables; index again: gte index PATHS --to {place}"
        )
    newest = max(there, key=lambda x: os.stat(os.path.join(place, x)).st_mtime_ns)
    pointer = generations.Pointer(newest, None)
    if repair:
        generations.write_pointer(place, pointer)
        report.mended.append(f"{generations.POINTER_FILE} names `{newest}`, the newest generation")
    return pointer


def _make_readable(folder: str, found: list[damage.DamagedFile]) -> bool:
    closed = [os.path.join(folder, x.path) for x in found if x.reason == damage.NO_PERMISSION]
    for path in closed:
        os.chmod(path, os.stat(path).st_mode | 0o600)
    return bool(closed)


def _remake_indexes(
    place: str, folder: str, found: list[damage.DamagedFile], report: CheckReport
) -> bool:
    """Make all search indexes again; return whether that was possible."""
    try:
        failed = open_store(place).remake_indexes()
    except Exception:  # what is damaged is more than it seems: all is copied
        return False
    if failed:
        return False
    for one in found:  # of the indexes that are replaced
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, one.path))
    report.mended.append("made the search indexes again")
    return True


def _copy_readable(
    place: str, pointer: generations.Pointer, found: list[damage.DamagedFile], report: CheckReport
) -> list[StoredDocument]:
    """Copy what can be trusted into a new generation, and make that the live one."""
    folder, doubtful = os.path.join(place, pointer.current), list[StoredDocument]()
    bad = {x.path for x in found}
    with generations.migration_lock(place), generations.exclusive_lock(place):
        damage.restore_manifests(folder, found)
        missing = {x.path for x in damage.damaged_files(folder) if x.reason == "missing"}
        old = LanceStore(folder, durable=False)
        settings = _trusted_settings(old, folder, bad | missing)
        if settings is None:
            raise DamagedIndexError(
                f"the settings of the index `{place}` are lost; index again into a new folder"
            )
        name = f"{generations.FIRST}-{uuid.uuid4().hex[:12]}"
        new = open_store(place, None, name)
        new.save_settings(settings)
        for rows in new.copy_readable(folder, "windows", bad | missing):
            if isinstance(rows, int):
                report.unread += rows
            else:
                doubtful += _texts(rows)
        for _ in new.copy_readable(folder, "sources", bad | missing):
            pass  # what became of these files is found out by reading them again
        new.drop_headless()
        new.optimize()
        after = generations.Pointer(name, pointer.previous)
        generations.write_pointer(place, after)
    generations.drop_unreferenced(place, after, pointer)
    report.mended.append(f"copied what could be read ({new.count():,} documents) to new tables")
    return doubtful


def _trusted_settings(old: LanceStore, folder: str, bad: set[str]) -> dict[str, Any] | None:
    kept = checksums.kept_settings(folder)
    if kept is None and not any(name.startswith("settings.lance") for name in bad):
        with contextlib.suppress(Exception):
            return old.settings()
    return kept


def _texts(rows: list[dict[str, Any]]) -> Iterator[StoredDocument]:
    """Yield the documents of rows of a damaged file whose text is as its hash says."""
    from opengte.search.stores.lancedb.rows import documents_from_rows

    for row in rows:
        with contextlib.suppress(ValueError, TypeError):  # what is damaged may be anything
            if row["window"] == 0:
                one = next(iter(documents_from_rows([row])))
                if _is_right(one):
                    yield replace(one, windows=())


# --- documents -----------------------------------------------------------------------------------


def check_documents(store: Store, report: CheckReport, *, repair: bool) -> bool:
    """Remove documents that are not as their hashes say; return whether files must be read."""
    wrong: list[StoredDocument] = []
    known = bool(report.damage)  # of files: what is missing now comes from it
    held: Counter[str] = Counter()
    for one in store.scan():
        if _is_right(one):
            held[one.source] += 1
        else:
            wrong.append(one)
    report.damage += [(one.id, "document: its text is not what was indexed") for one in wrong]
    sources = {one.id: one for one in store.sources()}
    stale = [x for x in sources.values() if x.documents and held[x.id] != x.documents]
    unknown = [x for x in held if x not in sources and x != ADDED]
    if not wrong and not known:
        report.damage += [
            (x.id, f"file: {held[x.id]:,} of {x.documents:,} documents are there") for x in stale
        ]
    if not repair:
        return bool(stale)
    for start in range(0, len(wrong), DROPPED):
        store.delete([one.id for one in wrong[start : start + DROPPED]])
    again = [replace(x, digest="", documents=held[x.id]) for x in stale]
    store.put_sources([*again, *(SourceFile(x, "", held[x]) for x in unknown)])
    report.lost += [f"{x.id}: added without a file" for x in wrong if x.source == ADDED]
    return bool(again or unknown)


def _is_right(one: StoredDocument) -> bool:
    replaced = "\ufffd" in one.text or "\ufffd" in one.title  # PostgreSQL takes no NUL
    return replaced or content_hash(one.title, one.text, one.sections) == one.content


def _embed_again(index: Index, doubtful: list[StoredDocument], report: CheckReport) -> None:
    there = index.store.known([one.id for one in doubtful])
    wanted = [one for one in doubtful if one.id not in there]
    if not wanted:
        return
    parts = [(one.title, one.text, one.sections) for one in wanted]
    made = zip(wanted, index.embedder.embed(parts), strict=True)
    index.store.put([replace(one, windows=x.windows, truncated=x.truncated) for one, x in made])
    report.mended.append(f"embedded {len(wanted):,} documents again, whose texts were right")


def _read_again(index: Index, report: CheckReport) -> None:
    """Read the folders of the collection again; only what is missing is embedded."""
    roots = index.roots
    named = {x.id for x in index.store.sources() if not x.digest}
    paths = {p for p in map(roots.path_of, named) if os.path.isfile(walk.path_of(p))}
    options = IngestOptions(keep=True)
    given = [walk.path_of(path) for path in sorted(paths)]
    found = index_files(index.store, lambda: index.embedder, given, options, roots=roots)
    report.mended.append(f"read {found.files:,} files again: {found.new:,} documents are back")
    gone = sorted(x for x in named if roots.path_of(x) not in paths)
    report.lost += [f"{x}: its file is not there" for x in gone]
