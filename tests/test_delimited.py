"""The one reader of CSV and its kin, on odd tables; and every command and package that uses it."""

import gzip
import io
import re
from pathlib import Path
from typing import Any

import pytest

from opengte.bulk import FieldNames, InvalidRow, RowSource, TextRow
from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import read_examples, read_records
from opengte.delimited import BadRow, DelimitedRow, read_delimited, text_column
from opengte.errors import InputError
from opengte.search.adhoc.files import FileText, SkippedText, read_texts
from opengte.search.parse.base import ParsedDocument, ParseLimits, ParseProblem, RowFields
from opengte.search.parse.formats import parse_file

UNCLOSED = "question,answer\n" + "".join(f"Q {i}?,A {i}\n" for i in range(50))
UNCLOSED += 'Broken?,"this never closes\n' + "".join(f"Q {i}?,A {i}\n" for i in range(50, 2000))
NEVER = "a quotation mark that is never closed"


def read(content: bytes, **options: Any) -> list[DelimitedRow | BadRow]:
    return list(read_delimited(io.BytesIO(content), "a.csv", **options))


def values(content: bytes, **options: Any) -> list[list[str]]:
    found = [row for row in read(content, **options) if isinstance(row, DelimitedRow)]
    return [list(row.values.values()) for row in found]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a,b\n", []),
        (b"a,b\n1,2", [["1", "2"]]),
        (b"a,b\r\n1,2\r\n", [["1", "2"]]),
        (b"\xef\xbb\xbfa,b\n1,2\n", [["1", "2"]]),
        (b"\n\na,b\n\n1,2\n\n", [["1", "2"]]),
        (b'\xef\xbb\xbf"a","b"\n"1","x, ""y"""\n', [["1", 'x, "y"']]),
        (b'a,b\n1,"two\nlines"\n2,"\r\n"\n', [["1", "two\nlines"], ["2", "\n"]]),
        (b"a;b\n1;2,5\n", [["1", "2,5"]]),
        (b'"a, b";c\n1;2\n', [["1", "2"]]),
        (b"a\tb\n1\tx, y; z\n", [["1", "x, y; z"]]),
        (b"a|b\n1|2\n", [["1", "2"]]),
        (b'text\nhello\n"a, b"\n', [["hello"], ["a, b"]]),
        (b",text,,\n0,x,,\n", [["x"]]),  # an index, and columns without a name
        (b"a,b\n,\n", [["", ""]]),
        (b'a,b\n1,x"y\n', [["1", 'x"y']]),
        ("a,b\nö,日\u2028本\n".encode(), [["ö", "日\u2028本"]]),
    ],
)
def test_tables(content: bytes, expected: list[list[str]]) -> None:
    assert values(content) == expected
    assert not [row for row in read(content) if isinstance(row, BadRow) or row.problem]


def test_a_quotation_mark_is_a_character_where_there_are_no_quotes() -> None:
    content = b'a\tb\n1\t"x\n2\t"y" z\n'
    assert values(content, quoted=False, delimiter="\t") == [["1", '"x'], ["2", '"y" z']]


def test_rows_have_the_number_of_their_first_line() -> None:
    rows = read(b'\na,b\n1,"x\ny"\n\n2,z\n1,2,3\n4\n')
    assert [row.line for row in rows] == [3, 6, 7, 8]
    assert [row.problem for row in rows if isinstance(row, DelimitedRow)] == [
        "",
        "",
        "has 3 columns; expected 2, as in the header",
        "has 1 columns; expected 2, as in the header",
    ]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b'a,b\n1,2\n3,"x\n4,5\n', 3, NEVER),
        (b'a,"b\n1,2\n', 1, NEVER),
        (b"a,b,a\n1,2,3\n", 1, "has the column `a` twice"),
        (b",,\n1,2,3\n", 1, "has no names of columns"),
        (b"\xff,b\n1,2\n", 1, "is not UTF-8.*; expected the names of columns"),
        (b'a,b\n1,"' + b"x\n" * 99 + b'"\n2,3\n', 2, "a field of more than 100 bytes"),
    ],
)
def test_what_ends_a_table_names_its_line(content: bytes, line: int, reason: str) -> None:
    bad = read(content, limit=100)[-1]
    assert isinstance(bad, BadRow) and (bad.line, bad.last) == (line, True)
    assert re.search(reason, bad.reason), bad.reason


def test_a_bad_row_does_not_take_others_with_it() -> None:
    rows = read(b'a,b\n1,"x\n2,"y"\n3,4\n\xff,5\n6,7\n' + b"8," + b"x" * 200 + b"\n9,0\n", limit=99)
    bad = {row.line: row.reason for row in rows if isinstance(row, BadRow)}
    assert list(bad) == [2, 5, 7] and "with lines 2 to 3" in bad[2]
    assert [row.line for row in rows if isinstance(row, DelimitedRow)] == [4, 6, 8]
    assert values(b"a,b\n\xff,5\n", replace=True) == [["\ufffd", "5"]]


def test_utf_16_is_refused() -> None:
    with pytest.raises(InputError, match=r"`a\.csv` is UTF-16; expected UTF-8"):
        read("a,b\n1,2\n".encode("utf-16"))


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        (["n", "text", "title"], {"n": "1", "text": "a", "title": "b"}, "text"),
        (["id", "question"], {"id": "x", "question": "a"}, "question"),
        (["n", "question"], {"n": "1,5", "question": "a"}, "question"),
        (["code"], {"code": "7"}, "code"),
        (["question", "empty"], {"question": "a", "empty": " "}, "question"),
    ],
)
def test_the_column_that_can_only_be_meant(
    columns: list[str], row: dict[str, str], expected: str
) -> None:
    assert text_column(columns, [row]) == expected


def test_several_columns_that_could_be_meant_are_listed() -> None:
    row = {"id": "1", "question": "a", "answer": "b"}
    with pytest.raises(InputError, match="several columns .*: `question`, `answer`. Choose one"):
        text_column(list(row), [row])
    with pytest.raises(InputError, match="no column holds texts: `a`, `b`"):
        text_column(["a", "b"], [{"a": "1", "b": ""}])


# --- who reads tables ----------------------------------------------------------------------------

FAQ = b'id,text\n7,"hello, world"\n8,"line one\nline two"\n'
TEXTS = ["hello, world", "line one\nline two"]


def rows(path: Path, **names: str) -> list[TextRow | InvalidRow]:
    return list(RowSource.from_file(path, fields=FieldNames(**names)).rows())


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.csv.gz"])
def test_rows_to_embed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(FAQ) if name.endswith(".gz") else FAQ)
    assert rows(path) == [TextRow(2, "7", TEXTS[0]), TextRow(3, "8", TEXTS[1])]
    as_lines = RowSource.from_file(path, "text")
    assert [row.number for row in as_lines.rows()] == [1, 2, 3, 4]
    with pytest.raises(InputError, match="--text-field `body` is not a column; .* `id`, `text`"):
        rows(path, text="body")


def test_rows_of_tab_separated_values(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('key\tquestion\n1\t"a", b\n2\tc\td\n')
    assert rows(path, id="key") == [
        TextRow(2, "1", '"a", b'),
        InvalidRow(3, "has 3 columns; expected 2, as in the header"),
    ]


def test_rows_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": [7], "n": [1], "question": ["a"]}), path)
    assert rows(path) == [TextRow(1, 7, "a")]
    parquet.write_table(pyarrow.table({"question": ["a"], "answer": ["b"]}), path)
    with pytest.raises(InputError, match="several columns .* `question`, `answer`"):
        rows(path)
    assert rows(path, text="answer") == [TextRow(1, 1, "b")]


def test_rows_of_json_lines_have_the_rule_of_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 7, "n": 1, "question": "a"}\n"b"\n{"id": 8}\n')
    assert rows(path) == [
        TextRow(1, 7, "a"),
        TextRow(2, 2, "b"),
        InvalidRow(3, "has no field `question`, only `id`; choose one with --text-field"),
    ]
    path.write_text('{"question": "a", "answer": "b"}\n')
    assert rows(path) == [
        InvalidRow(
            1, "has no field `text`, only `question`, `answer`; choose one with --text-field"
        )
    ]
    assert rows(path, text="answer") == [TextRow(1, 1, "b")]
    path.write_text('{"question": "a"}\n{"text": "b"}\n')  # `text` is meant wherever it is
    assert isinstance(rows(path)[0], InvalidRow) and rows(path)[1] == TextRow(2, 2, "b")


def test_an_unclosed_quotation_mark_swallows_nothing_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text(UNCLOSED)
    with pytest.raises(InputError, match=rf"line 52 of the table begins a row with {NEVER}"):
        rows(path, text="answer")
    columns = ColumnMapping(query="question", positive=("answer",))
    with pytest.raises(InputError, match=rf"`{path}`:52 begins a row with {NEVER}"):
        list(read_examples((path,), columns))
    *documents, problem, _ = parse_file(str(path), "csv", ParseLimits(), RowFields())
    assert isinstance(problem, ParseProblem) and problem.line == 52 and NEVER in problem.reason
    assert len(documents) == 50
    *texts, skipped = read_texts([path])
    assert isinstance(skipped, SkippedText) and skipped.line == 52 and len(texts) == 50


def test_all_readers_find_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + FAQ.replace(b",", b";").replace(b"hello;", b"hello,"))
    expected = list(zip((2, 3), TEXTS, strict=True))
    assert [(row.number, row.text) for row in rows(path) if isinstance(row, TextRow)] == expected
    records = list(read_records(path))
    assert [(n, row["text"]) for n, row in records if isinstance(row, dict)] == expected
    documents = parse_file(str(path), "csv", ParseLimits(), RowFields())
    parsed = [item for item in documents if isinstance(item, ParsedDocument)]
    assert [(item.line, item.text) for item in parsed] == expected
    found = [item for item in read_texts([path]) if isinstance(item, FileText)]
    assert [(item.line, item.text) for item in found] == expected
