"""Downloading repositories of the Hugging Face Hub into huggingface_hub's own cache.

This adds to huggingface_hub: it fetches only the files that a model is loaded from, resumes
interrupted downloads even in a later run, verifies checksums, and moves a branch in the cache only
once all files of its new commit have arrived. huggingface_hub is imported inside functions, because
its import is slow and `gte --help` does not need it.
"""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from opengte.errors import CheckpointError, FallbackWarning
from opengte.hub import disk, errors, file_selection, progress, snapshots
from opengte.hub.cache_paths import ModelLocation
from opengte.hub.snapshots import HubSnapshot, RemoteFile

Result = TypeVar("Result")

_LIST_WAITS = (0.5, 2.0)  # seconds before the second and third attempt
_DOWNLOAD_WAITS = (1.0, 5.0, 15.0)
_LIST_TIMEOUT = 15.0  # seconds


def fetch_repository(repository: str, revision: str, offline: bool) -> ModelLocation:
    """Return the folder of a repository at a revision, downloading what is missing."""
    store = snapshots.repository_cache(repository)
    kept = snapshots.find_snapshot(store, revision)
    if offline and kept is None:
        raise snapshots.not_cached_error(repository, revision, store)
    if kept and (offline or (snapshots.is_commit(revision) and kept.files is not None)):
        return snapshots.use_snapshot(repository, kept)
    try:
        return _download(repository, revision, store, has_copy=kept is not None)
    except errors.hub_exceptions() as error:
        if kept is None or not errors.is_outage(error):
            raise errors.to_download_error(error, repository, revision, store) from error
        return _fall_back(repository, revision, kept, error)


def _fall_back(
    repository: str, revision: str, kept: HubSnapshot, error: Exception
) -> ModelLocation:
    warnings.warn(
        f"The Hub could not be reached ({errors.first_line(error)}); using the cached copy of "
        f"{repository}, revision {revision}, commit {kept.commit}, which may be outdated.",
        FallbackWarning,
        stacklevel=5,
    )
    return snapshots.use_snapshot(repository, kept)


def _download(repository: str, revision: str, store: Path, has_copy: bool) -> ModelLocation:
    # with a cached copy one attempt is enough: users without a network should not wait for retries
    waits = () if has_copy else _LIST_WAITS
    commit, wanted = _retried(partial(_list, repository, revision), waits)
    snapshot = HubSnapshot(store / "snapshots" / commit, commit, wanted)
    _complete(repository, snapshot, wanted)
    snapshots.verify_snapshot(repository, snapshot)
    snapshots.write_record(store.name, commit, wanted)
    snapshots.move_reference(store, revision, commit)
    return snapshots.snapshot_location(repository, snapshot)


def _complete(repository: str, snapshot: HubSnapshot, wanted: list[RemoteFile]) -> None:
    """Download the wanted files that a snapshot lacks."""
    store = snapshot.folder.parent.parent
    if not (absent := _absent(snapshot, wanted)):
        return
    store.mkdir(parents=True, exist_ok=True)
    disk.require_space(sum(_bytes_left(file, store) for file in absent), store)
    try:
        with progress.bars_only_on_terminals():
            for file in absent:
                _retried(partial(_download_file, repository, snapshot.commit, file, store))
    except errors.hub_exceptions() as error:
        if not disk.is_disk_full(error):
            raise
        needed = sum(_bytes_left(file, store) for file in _absent(snapshot, wanted))
        raise disk.disk_full_error(store, needed, disk.free_bytes(store)) from error


def _absent(snapshot: HubSnapshot, wanted: list[RemoteFile]) -> list[RemoteFile]:
    return [file for file in wanted if not (snapshot.folder / file.name).exists()]


def _list(repository: str, revision: str) -> tuple[str, list[RemoteFile]]:
    """Return the commit of a revision on the Hub, and the files to fetch of it."""
    from huggingface_hub import HfApi

    info = HfApi(endpoint=_endpoint()).model_info(
        repository, revision=revision, files_metadata=True, timeout=_LIST_TIMEOUT, token=_token()
    )
    found = {sibling.rfilename: sibling for sibling in info.siblings or []}
    names = file_selection.select_files(found)
    if file_selection.model_folder(names) is None:
        raise _not_a_model(repository, revision, sorted(found))
    announced = [(found[name], found[name].lfs) for name in names]
    wanted = [
        RemoteFile(entry.rfilename, entry.size, lfs.sha256 if lfs else entry.blob_id)
        for entry, lfs in announced
    ]
    return str(info.sha), wanted


def _not_a_model(repository: str, revision: str, names: list[str]) -> CheckpointError:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return CheckpointError(
        f"{repository} (revision {revision}) has no checkpoint that can be read: expected "
        "config.json and model*.safetensors (or pytorch_model*.bin) at its top, found "
        f"{shown or 'no files'}. ONNX, GGUF and TensorFlow repositories cannot be used; look for "
        "the original repository of the model."
    )


def _download_file(repository: str, commit: str, file: RemoteFile, store: Path) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.file_download import are_symlinks_supported

    # without symbolic links the cache has no blobs: there the library downloads the whole file
    if disk.is_sha256(file.digest) and are_symlinks_supported(store.parent):
        _download_blob(repository, commit, file, store)
    hf_hub_download(
        repository,
        file.name,
        revision=commit,
        cache_dir=store.parent,
        endpoint=_endpoint(),
        token=_token(),
    )


def _download_blob(repository: str, commit: str, file: RemoteFile, store: Path) -> None:
    """Download a large file into the blobs of the cache, resuming an earlier attempt.

    huggingface_hub discards a partial file when a download fails, which is costly for gigabytes.
    It finds the finished blob; the lock is the one that it uses itself.
    """
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    blob = store / "blobs" / str(file.digest)
    lock = store.parent / ".locks" / store.name / f"{file.digest}.lock"
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if not blob.exists():
            started = _started(file, store)
            _append(repository, commit, file, started)
            label = f"{file.name} of {repository}"
            disk.verify_file(started, label, file.size, file.digest, destination=blob)
            os.replace(started, blob)


def _append(repository: str, commit: str, file: RemoteFile, started: Path) -> None:
    """Download the rest of a file, starting at its present size."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repository, file.name, revision=commit, endpoint=_endpoint())
    # a server that compresses ignores ranges
    headers = build_hf_headers(token=_token()) | {"Accept-Encoding": "identity"}
    if file.size is not None and started.exists() and started.stat().st_size > file.size:
        started.unlink()
    with started.open("ab") as target:
        http_get(
            url,
            target,
            resume_size=target.tell(),
            headers=headers,
            expected_size=file.size,
            displayed_filename=file.name,
        )


def _started(file: RemoteFile, store: Path) -> Path:
    return store / "blobs" / f"{file.digest}.incomplete"


def _bytes_left(file: RemoteFile, store: Path) -> int:
    size = file.size or 0
    if not disk.is_sha256(file.digest):
        return size
    if (store / "blobs" / str(file.digest)).exists():
        return 0
    started = _started(file, store)
    return max(0, size - started.stat().st_size) if started.exists() else size


def _retried(action: Callable[[], Result], waits: Sequence[float] = _DOWNLOAD_WAITS) -> Result:
    """Return the result of an action; retry after each of the waits if the network failed."""
    for wait in waits:
        try:
            return action()
        except errors.hub_exceptions() as error:
            if not errors.is_outage(error):
                raise
        time.sleep(wait)
    return action()


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _token() -> str | None:
    return os.environ.get("HF_TOKEN", "").strip() or None  # None: the token of `hf auth login`
