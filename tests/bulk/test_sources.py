"""The readers of rows: whatever the bytes, every line is a row or a reason, with its number."""

import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opengte.bulk import FieldNames, InvalidRow, RowSource, TextRow, text
from opengte.bulk.formats import InputFormat, input_format

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
records = st.fixed_dictionaries({}, optional={"text": json_values, "id": json_values})
lines = st.one_of(
    st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")),
    json_values.map(lambda value: json.dumps(value).encode()),
    records.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")),
)


def read(content: bytes, format: InputFormat = "jsonl", **fields) -> list[TextRow | InvalidRow]:
    return list(RowSource.from_stream(io.BytesIO(content), format, FieldNames(**fields)).rows())


def is_blank(line: bytes) -> bool:
    try:
        return not line.decode().strip()
    except UnicodeDecodeError:
        return False


@given(st.lists(lines, max_size=8), st.booleans())
@example([b"[" * 100_000], False)
@example([b"9" * 5000, b'{"text": "\\ud800", "id": "\\udfff"}'], True)
@example([b"\xef\xbb\xbf\xef\xbb\xbf"], False)
def test_every_line_of_json_lines_is_a_row_or_a_reason(content, end):
    found = read(b"\n".join(content) + b"\n" * end)
    texts = [content[0].removeprefix(b"\xef\xbb\xbf"), *content[1:]] if content else []
    wanted = [number for number, line in enumerate(texts, 1) if not is_blank(line)]
    assert [item.number for item in found] == wanted
    for item in found:
        if isinstance(item, TextRow):
            assert isinstance(item.text, str)
            assert type(item.id) in (int, str)
            str(item.id).encode()
        else:
            assert item.reason
            assert "\n" not in item.reason


@given(st.lists(records, max_size=8))
def test_good_records_come_through_unchanged(values):
    content = "".join(json.dumps(value) + "\n" for value in values).encode()
    for item, value in zip(read(content), values, strict=True):
        good_text = isinstance(value.get("text"), str)
        key = value.get("id", 0)
        good_id = type(key) is int or (type(key) is str and key.isprintable())
        if good_text and good_id:
            assert item == TextRow(item.number, value.get("id", item.number), value["text"])
        elif not good_text:
            assert isinstance(item, InvalidRow)


@given(st.lists(st.text().map(lambda text: text.replace("\n", " ")), max_size=8))
def test_text_lines_come_through_unchanged(texts):
    content = "".join(text + "\n" for text in texts).encode()
    found = [item.text for item in read(content, "text") if isinstance(item, TextRow)]
    wanted = [text.removesuffix("\r") for text in texts]
    if wanted:
        wanted[0] = wanted[0].removeprefix("\ufeff")
    assert found == wanted


def test_a_line_over_the_limit_is_reported_and_skipped(monkeypatch):
    monkeypatch.setattr(text, "LINE_LIMIT", 10)
    found = read(b"0123456789\n0123456789A\nshort\n" + b"x" * 3_000_000, "text")
    assert found == [
        TextRow(1, 1, "0123456789"),
        InvalidRow(2, "is longer than 10 bytes"),
        TextRow(3, 3, "short"),
        InvalidRow(4, "is longer than 10 bytes"),
    ]


def test_a_line_over_the_limit_ends_where_it_ends(monkeypatch):
    monkeypatch.setattr(text, "LINE_LIMIT", 10)
    found = read(b"x" * 2_500_000 + b"\nshort\n", "text")
    assert [item.number for item in found] == [1, 2]
    assert found[1] == TextRow(2, 2, "short")


def test_an_id_with_half_a_surrogate_pair_is_refused():
    (found,) = read(b'{"text": "a", "id": "\\ud800"}')
    assert isinstance(found, InvalidRow)
    assert found.reason == "field `id` has half of a surrogate pair; expected whole characters"


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.jsonl", "jsonl"),
        ("a.JSON", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.txt", "text"),
        ("a.gz", "text"),
        ("README", "text"),
    ],
)
def test_the_format_follows_the_name(tmp_path, name, format):
    assert input_format(tmp_path / name) == format


def test_standard_input_has_no_name():
    assert input_format(None) == "text"
