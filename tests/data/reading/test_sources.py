"""Reading rows of training data: formats, columns, and what cannot be read."""

import bz2
import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest

from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import detect_columns, list_files
from opengte.errors import InputError
from tests.support.example_files import LINES, ROWS, bad, good, read
from tests.support.training_data import write_lines

PAIR = ColumnMapping(query="query", positive=("positive",))


EXPECTED = [("what is a cat", ("an animal",)), ("été", ("a\nb",))]


CSV = '\ufeffquery,positive\r\nwhat is a cat,an animal\r\nété,"a\nb"\r\n'.encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", b"\xef\xbb\xbf" + LINES + b"\n\n"),
        ("a.json", LINES),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json", ("[" + ", ".join(map(json.dumps, ROWS)) + "]").encode("utf-8-sig")),
        ("a.csv", CSV),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.csv.bz2", bz2.compress(CSV)),
        ("a.jsonl.xz", lzma.compress(LINES)),
        ("a.jsonl.zst", pyarrow.compress(LINES, "zstd", asbytes=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_formats(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert good(path) == EXPECTED


def test_json_lines_that_are_longer_than_the_first_look(tmp_path):
    rows = [{"query": "q" * 3000, "positive": f"p{i}"} for i in range(5)]
    path = write_lines(tmp_path / "a.json", rows)
    assert good(path) == [(row["query"], (row["positive"],)) for row in rows]


def test_rows_as_arrays_of_texts(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [["q", "p"], ["q", "p", "n"]])
    found = [(one.positives, one.negatives) for one in read(path)]
    assert found == [(("p",), ()), (("p",), ("n",))]


def test_tsv_has_no_quotes(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('query\tpositive\n"open\tclose"\nsecond\trow\n', encoding="utf-8")
    assert good(path) == [('"open', ('close"',)), ("second", ("row",))]


def test_text_is_a_text_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo words\n")
    assert detect_columns((path,), ColumnMapping()).kind == "texts"
    assert good(path) == [("one", ()), ("two words", ())]


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", ".hidden.jsonl"):
        write_lines(tmp_path / name, [{"query": name, "positive": "p"}])
    (tmp_path / "README.md").write_text("not data")
    assert [query for query, _ in good(tmp_path)] == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]


def test_an_empty_folder_and_a_missing_path_are_errors(tmp_path):
    with pytest.raises(InputError, match="holds no file of a known kind: .jsonl"):
        list_files((tmp_path,))
    with pytest.raises(InputError, match="does not exist"):
        list_files((tmp_path / "none",))
    (tmp_path / "a.pdf").write_bytes(b"")
    with pytest.raises(InputError, match="unknown kind; expected .jsonl"):
        list_files((tmp_path / "a.pdf",))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.json"])
def test_an_empty_file_is_an_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="has no rows; expected at least one"):
        detect_columns((tmp_path / name,), ColumnMapping())


def test_one_column_is_an_error_that_says_what_to_do(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"body": "x"}])
    with pytest.raises(InputError, match="one column, `body`, and a pair needs two"):
        detect_columns((path,), ColumnMapping())
    assert detect_columns((path,), ColumnMapping(text="body")).kind == "texts"


def test_bad_rows_are_told_by_their_lines(tmp_path):
    lines = [
        b'{"query": "a", "positive": "b"}',
        b"not json",
        b"",
        b'{"query": "\xff", "positive": "b"}',
        b'{"query": 3, "positive": "b"}',
        b'{"query": "a"}',
        b'{"query": "a", "positive": []}',
        b'{"query": "a", "positive": [1]}',
        b"17",
        b'{"query": "c", "positive": "d"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = dict(bad(tmp_path / "a.jsonl", PAIR))
    assert found.pop(2).startswith("is not JSON")
    assert found == {
        4: "is not UTF-8 (byte 12 of the line)",
        5: "`query` is a number; expected a string",
        6: "has no `positive`",
        7: "`positive` has no text",
        8: "`positive` holds a number; expected a string or a list of strings",
        9: "is a number; expected an object",
    }
    assert len(read(tmp_path / "a.jsonl", PAIR)) == 9


def test_bad_rows_of_tables(tmp_path):
    content = b'query,positive\na,b\na\n"x\xffy",b\n"two\nlines",b\na,b,c\nd,e\n'
    (tmp_path / "a.csv").write_bytes(content)
    assert bad(tmp_path / "a.csv") == [
        (3, "has 1 columns; expected 2, as in the header"),
        (4, "is not UTF-8 (byte 3 of the line)"),
        (7, "has 3 columns; expected 2, as in the header"),
    ]
    assert [one.origin.row for one in read(tmp_path / "a.csv")] == [2, 3, 4, 5, 7, 8]


def test_a_column_that_comes_twice_is_an_error(tmp_path):
    (tmp_path / "a.csv").write_text("q,q\n1,2\n")
    with pytest.raises(InputError, match="has the column `q` twice"):
        read(tmp_path / "a.csv")


def test_utf_16_and_cut_off_files_are_errors(tmp_path):
    (tmp_path / "a.csv").write_bytes("query,positive\n".encode("utf-16"))
    with pytest.raises(InputError, match="is UTF-16; expected UTF-8"):
        read(tmp_path / "a.csv")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES)[:-9])
    with pytest.raises(InputError, match="not a whole compressed file"):
        read(tmp_path / "a.jsonl.gz", PAIR)
    (tmp_path / "a.json").write_text("[1, 2")
    with pytest.raises(InputError, match="is not JSON"):
        read(tmp_path / "a.json")


def test_a_long_line_is_reported_and_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr("opengte.delimited.LINE_LIMIT", 100)
    rows = [ROWS[0], {"query": "x" * 300, "positive": "y"}, ROWS[0]]
    path = write_lines(tmp_path / "a.jsonl", rows)
    assert bad(path, PAIR) == [(2, "is longer than 100 bytes")]
    assert len(read(path, PAIR)) == 3
