"""Folders of a collection: entered when they are first indexed, moved, removed.

Ids that an earlier version made are absolute paths. They become ids below a root, with the vectors
that they have, when a run or a move first names their folder.
"""

import hashlib
import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from opengte.errors import InputError
from opengte.search.index import Index
from opengte.search.ingest.writer import row_hash
from opengte.search.parse import walk
from opengte.search.roots import Root, Roots
from opengte.search.stores.base import SourceFile, Store, StoredDocument

FETCHED = 64  # documents that are held at once
COMPARED = 50  # files by which a moved folder is recognised
CHUNK = 2**20  # bytes that are hashed at once


def enter_roots(
    index: Index, paths: Iterable[str], name: str | None = None, *, dry_run: bool = False
) -> Roots:
    """Return the roots of an index with those that paths need, and move old ids below them.

    Raises InputError where a folder looks like one that is gone: it was probably moved. A name says
    that it was not.
    """
    given = [walk.path_to_id(os.path.abspath(path)) for path in paths]
    if name is not None and len(given) != 1:
        raise InputError(f"a name goes with one folder, and there are {len(given)} paths")
    roots, files = index.roots, list(index.store.sources())
    for path in given:
        here = walk.path_of(path)
        if not os.path.exists(here) or roots.id_of(path) != path:
            continue
        folder = path if os.path.isdir(here) else posixpath.dirname(path)
        if name is None:
            _propose_move(index, roots, files, folder)
        if dry_run:
            roots = roots.added(folder, name)
        else:
            roots = index.change_roots(partial(_entered, folder=folder, name=name))
    if not dry_run:
        adopt_old_ids(index.store, roots, files)
    return roots


def _entered(now: Roots, folder: str, name: str | None) -> Roots:
    """Return the roots that are stored by now, with one more unless another run entered it."""
    return now if now.id_of(folder) != folder else now.added(folder, name)


def move_root(index: Index, old: str, new: str, *, force: bool = False) -> Root:
    """Change where a folder of the collection is: by its name, or by where it was.

    Raises InputError if there is no such folder, the new one is not there, or has none of the files
    (unless forced).
    """
    path = walk.path_to_id(os.path.abspath(new))
    root, files = _root(index, old), list(index.store.sources())
    held = [one for one in files if one.documents]
    mine = [one for one in held if walk.is_inside(index.roots.id_of(one.id), [root.name])]
    mine = mine or [one for one in held if walk.is_inside(one.id, [root.path])]
    if not os.path.isdir(walk.path_of(path)):
        raise InputError(f"`{new}` is no folder; give the one that `{root.path}` was moved to")
    beginning = root.name if mine and not mine[0].id.startswith("/") else root.path
    there = sum(os.path.exists(_at(one.id, beginning, path)) for one in mine)
    if mine and not there and not force:
        raise InputError(
            f"`{new}` has none of the {len(mine):,} files of `{root.path}`; --force moves it anyway"
        )
    index.change_roots(lambda now: now if now.get(root.name) else _with(now, root))
    adopt_old_ids(index.store, index.roots, files)
    roots = index.change_roots(lambda now: now.moved(root.name, path))
    found = roots.get(root.name)
    assert found is not None
    return found


def remove_root(index: Index, old: str) -> tuple[Root, int]:
    """Remove a folder of the collection with its documents; return it, and how many those were."""
    root, store = _root(index, old), index.store
    scopes = [root.name, root.path]
    names = [one.id for one in store.sources() if walk.is_inside(one.id, scopes)]
    gone = [one for ids in store.documents_of(names).values() for one in ids]
    store.delete(gone)
    store.delete_sources(names)
    index.change_roots(lambda now: now.without(root.name))
    return root, len(gone)


def _root(index: Index, text: str) -> Root:
    roots, path = index.roots, walk.path_to_id(os.path.abspath(text))
    for one in roots.roots:
        if one.name == text.rstrip("/") or one.path == path:
            return one
    if any(walk.is_inside(one.id, [path]) for one in index.store.sources()):  # old ids
        return roots.added(path).roots[-1]
    names = ", ".join(f"`{one.name}` ({one.path})" for one in roots.roots) or "none"
    raise InputError(f"`{text}` is no folder of the index; it has: {names}")


def _with(now: Roots, root: Root) -> Roots:
    return Roots((*now.roots, root))


# --- recognising a folder that was moved ---------------------------------------------------------


def _propose_move(index: Index, roots: Roots, files: Sequence[SourceFile], folder: str) -> None:
    """Raise InputError if a folder that is gone had the files that a new one has."""
    for root in (*roots.roots, *_unnamed(files)):
        if walk.has_files(walk.path_of(root.path)):
            continue
        mine = [one for one in files if one.digest and walk.is_inside(one.id, [root.name])]
        mine = mine[:: max(1, len(mine) // COMPARED)]
        same = sum(_is_same(_at(one.id, root.name, folder), one.digest) for one in mine)
        if mine and 2 * same >= len(mine):
            old = root.name if roots.get(root.name) else root.path
            error = InputError(
                f"`{folder}` has {same} of {len(mine)} files that were in `{root.path}`, which is "
                "empty or gone: was the folder moved?"
            )
            error.add_note(f"if it was: gte index move-root {index.place} {old} {folder}")
            name = roots.added(folder).roots[-1].name
            error.add_note(f"if not: gte index {folder} --to {index.place} --as {name}")
            raise error


def _unnamed(files: Sequence[SourceFile]) -> list[Root]:
    """Return the folder of all files that are in no root, as a root whose name is its path."""
    old = [posixpath.dirname(one.id) for one in files if one.id.startswith("/")]
    return [Root(path, path) for path in [posixpath.commonpath(old)]] if old else []


def _at(identity: str, beginning: str, folder: str) -> str:
    return walk.path_of(folder.rstrip("/") + identity[len(beginning.rstrip("/")) :])


def _is_same(path: str, digest: str) -> bool:
    try:
        with open(path, "rb") as file:
            return digest.startswith(hashlib.file_digest(file, "sha256").hexdigest())
    except OSError:
        return False


# --- ids of earlier versions ---------------------------------------------------------------------


def adopt_old_ids(store: Store, roots: Roots, files: Iterable[SourceFile]) -> None:
    """Give files whose ids are paths, and that are in a root by now, their ids below it.

    New rows are written before old ones are removed: after a kill the next run goes on.
    """
    old = [one for one in files if roots.id_of(one.id) != one.id]
    for start in range(0, len(old), FETCHED):
        part = old[start : start + FETCHED]
        ids = [x for found in store.documents_of([one.id for one in part]).values() for x in found]
        for at in range(0, len(ids), FETCHED):
            names = ids[at : at + FETCHED]
            store.put([_renamed(one, roots) for one in store.fetch(names).values()])
            store.delete(names)
        store.put_sources([replace(one, id=roots.id_of(one.id)) for one in part])
        store.delete_sources([one.id for one in part])


def _renamed(one: StoredDocument, roots: Roots) -> StoredDocument:
    metadata = dict(one.metadata)
    for field in ("path", "folder"):
        if isinstance(value := metadata.get(field), str):
            metadata[field] = roots.id_of(value)
    source = roots.id_of(one.source)
    row = row_hash(source, one.line, one.sections, metadata, one.warnings)
    name = source + one.id[len(one.source) :]
    return replace(one, id=name, source=source, metadata=metadata, row=row)
