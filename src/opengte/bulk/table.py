"""CSV and its kin: the reader of rows."""

import itertools
from collections.abc import Iterator
from typing import IO

from opengte.bulk.types import FieldNames, InvalidRow, TextRow, row_from_record
from opengte.delimited import PEEK, BadRow, DelimitedRow, read_delimited
from opengte.errors import InputError


def read_csv(stream: IO[bytes], fields: FieldNames) -> Iterator[TextRow | InvalidRow]:
    """Yield the rows of a table with quoted fields, numbered by their first lines.

    Raises InputError for a table without the columns, or one that cannot be read to its end.
    """
    yield from _rows(read_delimited(stream, "the table"), fields)


def read_tsv(stream: IO[bytes], fields: FieldNames) -> Iterator[TextRow | InvalidRow]:
    """Yield the rows of tab-separated values, in which quotation marks are characters."""
    rows = read_delimited(stream, "the table", quoted=False, delimiter="\t")
    yield from _rows(rows, fields)


def _rows(
    rows: Iterator[DelimitedRow | BadRow], fields: FieldNames
) -> Iterator[TextRow | InvalidRow]:
    start = list(itertools.islice(rows, PEEK))
    whole = [row.values for row in start if isinstance(row, DelimitedRow)]
    if whole:
        fields = fields.among(list(whole[0]), whole)
    for row in itertools.chain(start, rows):
        if isinstance(row, BadRow):
            if row.last:
                raise InputError(f"line {row.line} of the table {row.reason}")
            yield InvalidRow(row.line, row.reason)
        elif row.problem:
            yield InvalidRow(row.line, row.problem)
        else:
            yield row_from_record(row.line, row.values, fields)
