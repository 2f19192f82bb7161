"""Checksums of downloaded files, small files written whole, and free space on the disk."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import threading
from pathlib import Path

from opengte.errors import DownloadError, IntegrityError
from opengte.hub.cache_paths import cache_root

_SHA256_LENGTH = 64
_CHUNK = 1 << 20
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?\s*", re.IGNORECASE)


def is_sha256(digest: str | None) -> bool:
    """Return whether a digest has the form of a SHA-256."""
    return digest is not None and len(digest) == _SHA256_LENGTH and _is_hex(digest)


def file_checksum(path: Path, like: str) -> str:
    """Return a file's digest in the algorithm of `like`: SHA-256, or git's SHA-1 of a blob."""
    if is_sha256(like):
        hasher = hashlib.sha256()
    else:
        header = b"blob %d\0" % path.stat().st_size
        hasher = hashlib.sha1(header, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def verify_file(
    path: Path, label: str, size: int | None, digest: str | None, destination: Path | None = None
) -> None:
    """Raise IntegrityError, and delete the file, unless it has the announced size and digest.

    A link is followed; both the link and its target are deleted. A file that passed is recorded
    under its path, or under the destination that it will be moved to. It is not read again while
    its size and modification time stay the same.
    """
    blob = path.resolve()
    if size is not None and blob.stat().st_size != size:
        raise _rejected(path, label, f"{size} bytes", f"{blob.stat().st_size} bytes")
    marker = _marker(blob, destination or blob, digest)
    if digest is None or marker.exists():
        return
    found = file_checksum(blob, like=digest)
    if found != digest:
        raise _rejected(path, label, _named(digest), _named(found))
    _remember(marker, destination or blob)


def is_verified(blob: Path, digest: str) -> bool:
    """Return whether a file was found to have this SHA-256 and has not changed since."""
    return is_sha256(digest) and _marker(blob, blob, digest).exists()


def write_atomically(path: Path, text: str) -> None:
    """Write a small file whole, whatever other threads and processes write there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    partial.write_text(text)
    os.replace(partial, path)


def parse_size(text: str) -> int:
    """Parse a number of bytes; units are powers of 1024.

    >>> parse_size("1048576"), parse_size("64MB"), parse_size("1.5 KiB")
    (1048576, 67108864, 1536)
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(float(match[1]) * _UNITS[match[2].lower()])


def require_space(needed: int, folder: Path) -> None:
    """Raise DownloadError unless the disk that holds `folder` has `needed` bytes free."""
    if free_bytes(folder) < needed:
        raise disk_full_error(folder, needed, free_bytes(folder))


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that holds a folder."""
    return shutil.disk_usage(folder).free


def disk_full_error(
    folder: Path, needed: int | None, available: int | None = None
) -> DownloadError:
    """Return the error for a full disk, which says how to use another disk."""
    wanted = "" if needed is None else f": {needed} bytes are needed"
    wanted += "" if available is None else f", {available} are free"
    return DownloadError(
        f"No space left on the disk of the cache {folder}{wanted}. Free some space, or move the "
        "caches to another disk by setting HF_HOME (models of the Hub) and OPENGTE_CACHE "
        "(models of package indexes), then run the command again."
    )


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or a cause of it, is a full disk or an exhausted disk quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)


def _named(digest: str) -> str:
    return f"sha256 {digest}" if is_sha256(digest) else f"git blob {digest}"


def _rejected(path: Path, label: str, expected: str, found: str) -> IntegrityError:
    with contextlib.suppress(OSError):  # the checksum is the error to report
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    return IntegrityError(
        f"{label} is not what was announced: expected {expected}, found {found}. The file was "
        "deleted; fetch the model again. If this repeats, something between here and the source "
        "(a mirror set by HF_ENDPOINT or by pip, or a proxy) changes files."
    )


def _marker(blob: Path, named: Path, digest: str | None) -> Path:
    state = blob.stat()
    key = f"{named.absolute()}\0{state.st_size}\0{state.st_mtime_ns}\0{digest}"
    return cache_root() / "verified" / hashlib.sha256(key.encode()).hexdigest()


def _remember(marker: Path, blob: Path) -> None:
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"{blob}\n")
    except OSError:
        pass  # without the record, the file is only read again next time
