"""Files that are replaced whole or not at all, and that survive a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield the path of a part file, which replaces `path` once it is flushed to disk.

    If the body raises, `path` stays as it was and the part file remains.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp(), "settings.json")
    >>> with atomic_write(target) as part:
    ...     _ = part.write_text("{}")
    >>> target.read_text()
    '{}'
    """
    part = path.with_name(path.name + ".part")
    yield part
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_folder(path.absolute().parent)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, so that renames in it survive a power cut.

    Does nothing where the system cannot open folders.
    """
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
