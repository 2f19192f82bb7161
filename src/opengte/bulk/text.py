"""Plain text: the reader of lines, which JSON Lines shares."""

from collections.abc import Iterator
from typing import IO

from opengte.bulk.types import FieldNames, InvalidRow, TextRow

LINE_LIMIT = 64 * 2**20  # bytes; longer lines are reported and never held in memory


def read_text(stream: IO[bytes], fields: FieldNames) -> Iterator[TextRow | InvalidRow]:
    """Yield each line of a stream as a row; empty lines count."""
    for number, line in decoded_lines(stream):
        yield line if isinstance(line, InvalidRow) else TextRow(number, number, line)


def decoded_lines(stream: IO[bytes]) -> Iterator[tuple[int, str | InvalidRow]]:
    """Yield the number of each line with its text, or with what is wrong with it."""
    number = 0
    while line := stream.readline(LINE_LIMIT + 1):
        number += 1
        if len(line) > LINE_LIMIT and not line.endswith(b"\n"):
            _skip_line(stream)
            yield number, InvalidRow(number, f"is longer than {LINE_LIMIT:,} bytes")
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield number, line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            place = f"byte {error.start + 1} of the line"
            yield number, InvalidRow(number, f"is not UTF-8 ({place})")


def _skip_line(stream: IO[bytes]) -> None:
    while (rest := stream.readline(2**20)) and not rest.endswith(b"\n"):
        pass
