"""Rows of JSON Lines and TSV files, gzip or not, read strictly: an error names file and line."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opengte.errors import InputError

Record = dict[str, Any]


def data_file_exists(path: Path) -> bool:
    """Return whether a file is there, as it is named or with `.gz` after its name."""
    return find_data_file(path) is not None


def find_data_file(path: Path) -> Path | None:
    """Return the file that is there: as it is named, or with `.gz` after its name."""
    packed = path.with_name(path.name + ".gz")
    return next((candidate for candidate in (path, packed) if candidate.is_file()), None)


def read_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield line numbers and objects of a JSON Lines file; InputError for what is none."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"`{path}`:{number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"`{path}`:{number} holds a {type(row).__name__}, expected an object")
        yield number, row


def read_table(
    path: Path, *, delimiter: str = "\t", quoted: bool = False
) -> Iterator[tuple[int, Record]]:
    """Yield line numbers and rows of a table whose first line names its columns."""
    text = "".join(line for _, line in _lines(path))
    lines = io.StringIO(text, newline="")
    if quoted:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    try:
        header = next(reader, None)
        for cells in reader:
            if len(cells) != len(header or ()):
                raise InputError(
                    f"`{path}`:{reader.line_num} has {len(cells)} cells, expected "
                    f"{len(header or ())} as in the header: {delimiter.join(header or ())}"
                )
            yield reader.line_num, dict(zip(header or (), cells, strict=True))
    except csv.Error as error:
        raise InputError(f"`{path}`:{reader.line_num}: {error}") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines of a UTF-8 file; InputError where it is missing, cut off or broken."""
    file = find_data_file(path)
    if file is None:
        raise InputError(f"`{path}` does not exist, nor `{path.name}.gz`")
    number = 0
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"`{file}`:{number} is not UTF-8: byte {error.object[error.start]:#04x} at column "
            f"{error.start + 1}. Convert the file, for example with iconv."
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"`{file}` is not a whole gzip file: {error}") from None
