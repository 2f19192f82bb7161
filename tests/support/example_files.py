"""What a file of training data is read as."""

import json
from pathlib import Path

from opengte.data.examples import Example, UnusableRow
from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import detect_columns, read_examples

ROWS = [{"query": "what is a cat", "positive": "an animal"}, {"query": "été", "positive": "a\nb"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def read(path: Path, columns: ColumnMapping | None = None) -> list[Example | UnusableRow]:
    return list(read_examples((path,), columns or detect_columns((path,), ColumnMapping())))


def good(path: Path, columns: ColumnMapping | None = None) -> list[tuple]:
    found = read(path, columns)
    assert all(isinstance(one, Example) for one in found), found
    return [(one.query, one.positives) for one in found]


def bad(path: Path, columns: ColumnMapping | None = None) -> list[tuple[int, str]]:
    found = read(path, columns)
    return [(one.origin.row, one.reason) for one in found if isinstance(one, UnusableRow)]
