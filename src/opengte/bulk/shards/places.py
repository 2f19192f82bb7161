"""Files in folders and buckets, through fsspec; what is published appears whole or not at all."""

import io
import os
import secrets
import shutil
from pathlib import Path
from typing import IO, Any, cast

from opengte.atomic_files import sync_folder
from opengte.errors import InputError, MissingExtraError

BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss", "adl")


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL, and the path in it.

    Raises MissingExtraError without the package that a protocol needs, InputError for an unknown
    protocol.
    """
    import fsspec

    protocol = url.partition("://")[0] if "://" in url else "file"
    if protocol == "file":
        path = os.path.abspath(url.removeprefix("file://"))
        return fsspec.filesystem("file"), path
    try:
        if protocol in BUCKETS:
            from obstore.fsspec import FsspecStore

            store = cast(Any, FsspecStore)(protocol)
            return store, url.partition("://")[2].rstrip("/")
        return cast(tuple[Any, str], fsspec.core.url_to_fs(url))
    except ImportError as error:
        package = error.name or protocol
        raise MissingExtraError(package, "bulk", f"`{protocol}://`") from error
    except ValueError as error:
        raise InputError(f"`{url}` is on no file system that fsspec knows: {error}") from error


def open_file(fs: Any, path: str) -> IO[bytes]:
    """Open a file for reading, decompressed if its name ends in .gz."""
    compression = "gzip" if path.endswith(".gz") else None
    if "file" in _protocols(fs) and compression is None:
        return open(path, "rb")
    fs.info(path)  # FileNotFoundError: obstore leaves half a file otherwise
    found = fs.open(path, "rb", compression=compression)
    return found if compression else cast(IO[bytes], io.BufferedReader(found, 2**20))


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


class Place:
    """A folder that a run reads and writes: local, or at a URL."""

    def __init__(self, url: str) -> None:
        self.fs, self.root = filesystem(url)
        self.is_local = "file" in _protocols(self.fs)
        self.url = self.root if self.is_local else url.rstrip("/")

    def __truediv__(self, name: str) -> "Place":
        return Place(f"{self.url}/{name}")

    def path(self, name: str) -> str:
        """Return the path of a file in the file system."""
        return f"{self.root.rstrip('/')}/{name}"

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""
        return open_file(self.fs, self.path(name))

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small file, None if it is not there."""
        try:
            with self.open(name) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        return bool(self.fs.exists(self.path(name)))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the names and sizes of the files directly in a folder; 0 for folders."""
        path = self.path(folder).rstrip("/")
        try:
            if not self.is_local:
                self.fs.invalidate_cache()
            found = self.fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        named = ((entry["name"].rstrip("/").rpartition("/")[2], entry) for entry in found)
        return {name: int(entry.get("size") or 0) for name, entry in named if name}

    def publish(self, name: str, content: bytes, *, replace: bool = False) -> None:
        """Make a file appear with these bytes; one that is there stays, unless replace.

        Locally: a part file, flushed to the disk and renamed. In a bucket: one conditional PUT.
        """
        if self.is_local:
            _publish_local(self.path(name), io.BytesIO(content))
        elif replace:
            self.fs.pipe_file(self.path(name), content)
        else:
            self._create(name, content)

    def publish_file(self, name: str, path: str) -> None:
        """Make a local file appear, in place of one that is there."""
        if self.is_local:
            _publish_local(self.path(name), Path(path).open("rb"))
        else:
            self.fs.put_file(path, self.path(name))

    def _create(self, name: str, content: bytes) -> None:
        protocol = self.url.partition("://")[0]
        if protocol not in BUCKETS:
            try:
                self.fs.pipe_file(self.path(name), content, mode="create")
            except FileExistsError:
                pass
            return
        import obstore
        from obstore.exceptions import AlreadyExistsError

        bucket, _, key = self.path(name).partition("/")
        store = obstore.store.from_url(f"{protocol}://{bucket}")
        try:
            obstore.put(store, key, content, mode="create", use_multipart=False)
        except AlreadyExistsError:  # another driver was first, with the same bytes
            pass

    def remove_stale_parts(self, folder: str, before: float) -> None:
        """Remove part files that a killed process left in a local folder before a time."""
        if not self.is_local or not os.path.isdir(self.path(folder)):
            return
        for entry in os.scandir(self.path(folder)):
            if entry.name.endswith(".part") and entry.stat().st_mtime < before:
                os.unlink(entry.path)


def _publish_local(path: str, content: IO[bytes]) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    part = f"{path}.{secrets.token_hex(4)}.part"
    try:
        with content, open(part, "wb") as file:
            shutil.copyfileobj(content, file, 2**20)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # a full disk, for one: nothing of it stays
        if os.path.exists(part):
            os.unlink(part)
        raise
    sync_folder(Path(folder))
