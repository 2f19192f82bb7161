"""Parquet files, and folders saved by `datasets`."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from opengte.data.examples import Example, UnusableRow
from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import detect_columns, list_files, read_examples
from opengte.errors import InputError

ROWS = [{"query": "what is a cat", "positive": "an animal"}, {"query": "été", "positive": "a\nb"}]


def read(path: Path, columns: ColumnMapping | None = None) -> list[Example | UnusableRow]:
    return list(read_examples((path,), columns or detect_columns((path,), ColumnMapping())))


def good(path: Path, columns: ColumnMapping | None = None) -> list[tuple]:
    found = read(path, columns)
    assert all(isinstance(one, Example) for one in found), found
    return [(one.query, one.positives) for one in found]


EXPECTED = [("what is a cat", ("an animal",)), ("été", ("a\nb",))]


def test_parquet_reads_lists_and_only_the_columns_asked_for(tmp_path):
    table = {"query": ["a", "b"], "positives": [["p"], ["p", "r"]], "neg": [[], None], "x": [1, 2]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    columns = detect_columns((tmp_path / "a.parquet",), ColumnMapping())
    assert str(columns) == "query=query, positive=positives, negative=neg"
    assert good(tmp_path / "a.parquet", columns) == [("a", ("p",)), ("b", ("p", "r"))]


def test_a_cut_off_parquet_file_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not a whole Parquet"):
        read(path)


def test_what_the_datasets_library_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_list([*ROWS, {"query": "x", "positive": "y"}]).select([1, 0])
    saved.save_to_disk(tmp_path / "one")
    assert good(tmp_path / "one") == EXPECTED[::-1]
    parts = datasets.DatasetDict(train=saved, test=saved.select([0]))
    parts.save_to_disk(tmp_path / "parts")
    assert good(tmp_path / "parts") == EXPECTED[::-1]
    assert good(tmp_path / "parts" / "test") == EXPECTED[1:]
    datasets.DatasetDict(dev=saved).save_to_disk(tmp_path / "dev")
    with pytest.raises(InputError, match="has the parts .'dev'., and none is called train"):
        list_files((tmp_path / "dev",))
