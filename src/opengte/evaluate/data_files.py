"""Rows of JSON Lines and TSV files, gzip or not, read strictly: an error names file and line."""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from opengte.delimited import BadRow, decoded_lines, read_delimited
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


def read_table(path: Path, *, quoted: bool = False) -> Iterator[tuple[int, Record]]:
    """Yield line numbers and rows of a table whose first line names its columns."""
    delimiter = None if quoted else "\t"
    with _opened(path) as stream:
        for row in read_delimited(stream, str(path), quoted=quoted, delimiter=delimiter):
            reason = row.reason if isinstance(row, BadRow) else row.problem
            if isinstance(row, BadRow) or reason:
                raise InputError(f"`{path}`:{row.line} {reason}")
            yield row.line, row.values


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines of a UTF-8 file; InputError where it is missing, cut off or broken."""
    with _opened(path) as stream:
        for number, line, reason in decoded_lines(stream, str(path)):
            if line is None:
                raise InputError(f"`{path}`:{number} {reason}")
            yield number, line


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    file = find_data_file(path)
    if file is None:
        raise InputError(f"`{path}` does not exist, nor `{path.name}.gz`")
    opener: Any = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rb") as stream:
            yield stream
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"`{file}` is not a whole gzip file: {error}") from None
