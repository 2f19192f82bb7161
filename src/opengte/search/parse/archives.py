"""Archives and compressed files: their members, bounded in number and in what they unpack to."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO, cast

from opengte.search.parse.base import (
    EmbeddedFile,
    ParsedItem,
    ParseLimits,
    ParseProblem,
    UnreadableFileError,
)

MEMBERS = 10_000  # of one archive that are looked at
OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
BROKEN = (
    OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error, lzma.LZMAError,
    zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip


def read_zip(file: BinaryIO, limits: ParseLimits) -> Iterator[EmbeddedFile | ParsedItem]:
    """Yield the members of a ZIP archive; a locked, damaged or too large one is a problem."""
    try:
        archive = zipfile.ZipFile(file)
    except BROKEN as error:
        raise _damaged(error) from error
    left = limits.unpacked_bytes
    for number, member in enumerate(archive.infolist()):
        if number == MEMBERS:
            yield _too_many()
            return
        if member.is_dir():
            continue
        if member.flag_bits & 1:
            yield ParseProblem("encrypted: it opens only with a password", part=member.filename)
            continue
        try:
            with archive.open(member) as opened:
                content = opened.read(min(limits.file_bytes, left) + 1)
        except BROKEN as error:
            yield ParseProblem(str(_damaged(error)), part=member.filename)
            continue
        left -= len(content)
        yield _member(member.filename, content, left, limits)


def read_tar(file: BinaryIO, limits: ParseLimits) -> Iterator[EmbeddedFile | ParsedItem]:
    """Yield the files of a tar archive, compressed or not; links and devices are skipped."""
    stream = _BoundedStream(_unpacked(file), limits.unpacked_bytes)
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
            for number, member in enumerate(archive):
                if number == MEMBERS:
                    yield _too_many()
                    return
                opened = archive.extractfile(member) if member.isfile() else None
                if opened is not None:
                    content = opened.read(limits.file_bytes + 1)
                    yield _member(member.name, content, stream.left, limits)
                elif not member.isdir():
                    yield ParseProblem("not a regular file", failed=False, part=member.name)
    except BROKEN as error:
        raise _damaged(error) from error


def read_compressed(
    file: BinaryIO, name: str, limits: ParseLimits
) -> Iterator[EmbeddedFile | ParsedItem]:
    """Yield the one file in a .gz, .bz2 or .xz file."""
    stream = _BoundedStream(_unpacked(file), limits.unpacked_bytes)
    try:
        content = stream.read(limits.file_bytes + 1)
    except BROKEN as error:
        raise _damaged(error) from error
    inner = _member(name.rpartition(".")[0], content, stream.left, limits)
    if isinstance(inner, ParseProblem):
        raise UnreadableFileError(inner.reason)
    yield EmbeddedFile(inner.name, inner.content, alone=True)


def _member(
    name: str, content: bytes, left: int, limits: ParseLimits
) -> EmbeddedFile | ParseProblem:
    if left < 0:
        raise UnreadableFileError(f"unpacks to more than {limits.unpacked_bytes:,} bytes")
    if len(content) > limits.file_bytes:
        return ParseProblem(f"larger than {limits.file_bytes:,} bytes", part=name)
    return EmbeddedFile(name, content)


def _too_many() -> ParseProblem:
    return ParseProblem(f"has more than {MEMBERS:,} members; the others were not read")


def _unpacked(file: BinaryIO) -> BinaryIO:
    head = file.read(6)
    file.seek(0)
    for magic, opener in OPENERS.items():
        if head.startswith(magic):
            return cast("BinaryIO", opener(file, "rb"))
    return file


class _BoundedStream(io.RawIOBase):
    """A stream of which no more is read than a limit allows."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._limit, self.left = file, limit, limit

    def read(self, size: int = -1, /) -> bytes:
        content = self._file.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(content)
        if self.left < 0:
            raise UnreadableFileError(f"unpacks to more than {self._limit:,} bytes")
        return content


def _damaged(error: Exception) -> UnreadableFileError:
    short = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return UnreadableFileError(f"not an archive that can be read ({short})")
