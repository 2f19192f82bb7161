"""Flush the files of a table to disk after a commit: LanceDB itself never calls fsync."""

import os


class FsyncTracker:
    """Remembers which files of a folder have been flushed to disk."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._done: set[str] = set()

    def sync(self) -> None:
        """Flush the files that appeared since the last call, then the folders they are in."""
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
