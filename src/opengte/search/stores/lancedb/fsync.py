"""Flush the files of a table to disk after a commit: LanceDB itself never calls fsync."""

import contextlib
import os

from opengte.search.stores.lancedb import checksums


class FsyncTracker:
    """Remembers which files of a folder have been flushed to disk."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._done: set[str] = set()
        self._recorded: set[str] | None = None  # files with a checksum, or without one for good

    def sync(self) -> None:
        """Flush the files that appeared since the last call, then the folders they are in.

        Their checksums are recorded.
        """
        seen: set[str] = set()
        for root, _, names in os.walk(self.folder):
            paths = [os.path.join(root, name) for name in names]
            new = [path for path in paths if path not in self._done]
            for path in new:
                _flush(path)
            if new:
                _flush(root)
            seen.update(paths)
        self._done = seen
        self._record()

    def restart(self) -> None:
        """Forget the checksums that a run recorded which was killed before its first commit."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.folder, checksums.CHECKSUMS))
        self._recorded = set()

    def _record(self) -> None:
        if self._recorded is None:
            self._recorded = set(checksums.read_checksums(self.folder))
        there = list(checksums.table_files(self.folder))
        new = [name for name in there if name not in self._recorded]
        checksums.record(self.folder, new)
        newest: dict[str, str] = {}
        for name in new:
            if name.endswith(".manifest"):
                table = name.partition(os.sep)[0]
                newest[table] = max(newest.get(table, name), name, key=_version)
        for name in newest.values():
            checksums.keep_manifest(self.folder, name)
        self._recorded = set(there)


def _version(name: str) -> int:
    return checksums.version_of(os.path.basename(name))


def _flush(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # another process tidied it away
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # a file system without fsync
    finally:
        os.close(descriptor)


def folder_bytes(folder: str) -> int:
    """Return the bytes of all files in a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total
