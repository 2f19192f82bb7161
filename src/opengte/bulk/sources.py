"""Sources of rows: a file, a stream or texts in memory, read one row at a time.

A row that cannot be used is an `InvalidRow` with its number and the reason; the rows around it are
not affected. Only a file that cannot be read at all raises.
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from opengte.bulk import jsonl, parquet, table, text
from opengte.bulk.formats import InputFormat, input_format
from opengte.bulk.types import FieldNames, InvalidRow, TextRow
from opengte.errors import InputError
from opengte.journal import file_identity
from opengte.text_input import check_texts

RowIterable = Iterable[TextRow | InvalidRow]
READERS = {  # of streams
    "text": text.read_text,
    "jsonl": jsonl.read_jsonl,
    "csv": table.read_csv,
    "tsv": table.read_tsv,
}


@dataclass(frozen=True, eq=False)
class RowSource:
    """Rows to embed, and what identifies them when an interrupted run resumes.

    `name` stands before the number of a row in messages; `rows` starts reading; `identity` must be
    equal for a run to resume; `resumable` is False if the rows can be read only once; `path` is the
    file, if there is one.
    """

    name: str
    rows: Callable[[], RowIterable]
    identity: dict[str, Any]
    resumable: bool = True
    path: Path | None = None

    @classmethod
    def from_file(
        cls, path: Path, format: InputFormat | None = None, fields: FieldNames | None = None
    ) -> "RowSource":
        """Return the rows of a file; its name implies the format unless one is given.

        `fields` names the fields of tables and of JSON Lines. A name that ends in .gz is
        decompressed while it is read. Reading raises InputError for a broken archive or table, and
        for a table without the column, or with several that could hold the texts.
        """
        format, fields = format or input_format(path), fields or FieldNames()
        identity = {"format": format, "text_field": fields.text or "text", "id_field": fields.id}
        identity |= file_identity(path)
        return cls(str(path), lambda: read_file(path, format, fields), identity, path=path)

    @classmethod
    def from_stream(
        cls, stream: IO[bytes], format: InputFormat = "text", fields: FieldNames | None = None
    ) -> "RowSource":
        """Return the rows of standard input or another stream, which cannot be resumed.

        Raises InputError for Parquet, which needs a file.
        """
        if format == "parquet":
            raise InputError(
                "Parquet cannot be read from standard input; give its name with --input"
            )
        fields = fields or FieldNames()
        identity = {"format": format, "text_field": fields.text or "text", "id_field": fields.id}
        rows = lambda: READERS[format](stream, fields)  # noqa: E731
        return cls("stdin", rows, {**identity, "stdin": True}, resumable=False)

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "RowSource":
        """Return texts in memory as rows, numbered from 1.

        >>> list(RowSource.from_texts(["a text"]).rows())
        [TextRow(number=1, id=1, text='a text')]
        """
        held = check_texts(texts)
        joined = "\0".join(held).encode("utf-8", "surrogatepass")
        rows = [TextRow(number, number, text) for number, text in enumerate(held, 1)]
        identity = {"arguments": hashlib.sha256(joined).hexdigest()}
        return cls("argument", lambda: rows, identity)


def read_file(
    path: Path, format: InputFormat, fields: FieldNames
) -> Iterator[TextRow | InvalidRow]:
    """Yield the rows of a file, compressed or not."""
    if format == "parquet":
        yield from parquet.read_parquet(path, fields)
        return
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            yield from READERS[format](stream, fields)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"--input `{path}` is not a whole gzip file: {error}") from error
    except InputError as error:
        raise InputError(f"--input `{path}`: {error}") from error
