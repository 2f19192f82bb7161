"""Snapshots of repositories in the cache of huggingface_hub: which are complete and verified.

A record of the wanted files is written once all of them have arrived and been verified. A snapshot
with a record is complete if it has all these files. One without a record, which another program
fetched, is judged by its own files.
"""

import json
import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from opengte.errors import FallbackWarning, OfflineError
from opengte.hub import disk, file_selection
from opengte.hub.cache_paths import CachedModel, ModelLocation, cache_root, hub_cache

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file as announced: its size in bytes and its digest (SHA-256, or git's of a blob)."""

    name: str
    size: int | None
    digest: str | None


@dataclass(frozen=True)
class HubSnapshot:
    """A commit in the cache, and its recorded files; None if another program fetched it."""

    folder: Path
    commit: str
    files: list[RemoteFile] | None


def repository_cache(repository: str) -> Path:
    """Return the folder of a repository in the cache of huggingface_hub."""
    return hub_cache() / f"models--{repository.replace('/', '--')}"


def is_commit(revision: str) -> bool:
    """Return whether a revision is a full commit, which never changes."""
    return bool(_COMMIT.fullmatch(revision))


def cached_repositories() -> list[CachedModel]:
    """Return the complete snapshots in the cache of the Hub."""
    folders = hub_cache().glob("models--*/snapshots/*")
    return [
        _described(folder) for folder in folders if find_snapshot(folder.parent.parent, folder.name)
    ]


def find_snapshot(store: Path, revision: str) -> HubSnapshot | None:
    """Return the cached snapshot of a revision if it is complete."""
    commit = revision if is_commit(revision) else read_reference(store, revision)
    folder = store / "snapshots" / commit
    if not commit or not folder.is_dir():
        return None
    recorded = _read_record(store.name, commit)
    if recorded is None:
        whole = not file_selection.missing_files(folder)
    else:
        whole = all((folder / file.name).is_file() for file in recorded)
    return HubSnapshot(folder, commit, recorded) if whole else None


def use_snapshot(repository: str, snapshot: HubSnapshot) -> ModelLocation:
    """Verify the files of a snapshot, each once, and return its location."""
    if snapshot.files is None:
        _warn_if_unknown(repository, snapshot)
    verify_snapshot(repository, snapshot)
    return snapshot_location(repository, snapshot)


def verify_snapshot(repository: str, snapshot: HubSnapshot) -> None:
    """Raise IntegrityError unless the files of a snapshot have the announced checksums."""
    for file in snapshot.files or _files_of(snapshot.folder):
        label = f"{file.name} of {repository}"
        disk.verify_file(snapshot.folder / file.name, label, file.size, file.digest)


def snapshot_location(repository: str, snapshot: HubSnapshot) -> ModelLocation:
    """Return the location of a snapshot."""
    source = f"hub {repository}@{snapshot.commit}"
    return ModelLocation(repository, snapshot.folder, source, snapshot.commit)


def _files_of(folder: Path) -> list[RemoteFile]:
    """Return the files of a snapshot without a record; the name of a large blob is its SHA-256."""
    names = file_selection.select_files(
        str(path.relative_to(folder).as_posix()) for path in folder.rglob("*")
    )
    blobs = [(name, (folder / name).resolve().name) for name in names]
    return [RemoteFile(name, None, blob if disk.is_sha256(blob) else None) for name, blob in blobs]


def _warn_if_unknown(repository: str, snapshot: HubSnapshot) -> None:
    if not (snapshot.folder / "modules.json").is_file():
        warnings.warn(
            f"The cached files of {repository} were fetched by another program, which may have "
            "left out modules.json and the pooling settings; they are used as they are. "
            f"`gte pull {repository}` completes them.",
            FallbackWarning,
            stacklevel=6,
        )


def not_cached_error(repository: str, revision: str, store: Path) -> OfflineError:
    """Return the error for a revision that is not in the cache in offline mode."""
    option = "" if revision == "main" else f" --revision {revision}"
    commits = sorted(path.name for path in (store / "snapshots").glob("*"))
    partly = f" The cache has only these commits, or parts of them: {', '.join(commits)}."
    return OfflineError(
        f"{repository} (revision {revision}) is not complete in the cache {store.parent}, and "
        f"offline mode forbids to fetch it.{partly if commits else ''} Run "
        f"`gte pull {repository}{option}` where there is a network."
    )


def _described(folder: Path) -> CachedModel:
    name = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return CachedModel(name, folder, f"hub {name}@{folder.name}", size)


def read_reference(store: Path, revision: str) -> str:
    """Return the commit of a branch or tag when it was last fetched, or an empty string."""
    try:
        return (store / "refs" / revision).read_text().strip()
    except OSError:
        return ""


def _record_path(store_name: str, commit: str) -> Path:
    return cache_root() / "hub" / store_name / f"{commit}.json"


def _read_record(store_name: str, commit: str) -> list[RemoteFile] | None:
    """Return the files of a commit recorded when it was fetched, or None."""
    try:
        entries = json.loads(_record_path(store_name, commit).read_bytes())
        return [RemoteFile(**entry) for entry in entries]
    except (OSError, ValueError, TypeError):
        return None


def write_record(store_name: str, commit: str, wanted: list[RemoteFile]) -> None:
    """Record the files of a commit, all of which have arrived."""
    text = json.dumps([asdict(file) for file in wanted], indent=1)
    try:
        disk.write_atomically(_record_path(store_name, commit), text)
    except OSError:
        pass  # without a record, the snapshot is judged by its own files


def move_reference(store: Path, revision: str, commit: str) -> None:
    """Point a branch or tag to a commit, all of whose files have arrived."""
    if revision != commit and read_reference(store, revision) != commit:
        disk.write_atomically(store / "refs" / revision, commit)
