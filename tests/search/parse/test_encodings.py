"""Texts in every encoding that people have, in every kind of file that is text."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte.search.parse import formats
from opengte.search.parse.base import ParsedDocument, ParseLimits, RowFields, UnreadableFileError
from opengte.search.parse.encodings import as_utf8, find_encoding

GERMAN = "Die Königin fährt über die Brücke nach Köln. Der Bär schläft."
FRENCH = "L'élève a reçu une très bonne note à l'école – c'était mérité."
RUSSIAN = "Быстрая коричневая лиса перепрыгивает через ленивую собаку."
CHINESE = "数据库备份的方法：先停止服务，然后复制数据目录。"
TAIWANESE = "資料庫備份的方法：先停止服務，然後複製資料目錄。"
JAPANESE = "東京の天気は晴れです。明日は雨が降るでしょう。"
KOREAN = "데이터베이스를 백업하려면 먼저 서비스를 중지한 다음 폴더를 복사합니다."
THAI = "ฉันชอบกินข้าวผัดกับน้ำปลาทุกวันตอนเช้า"
GREEK = "Η γρήγορη αλεπού πηδάει πάνω από το τεμπέλικο σκυλί."
POLISH = "Zażółć gęślą jaźń, a potem idź spać i śnij o łodziach."

CASES = [
    (GERMAN, "windows-1252"),
    (GERMAN, "utf-16-le"),
    (FRENCH, "windows-1252"),
    (RUSSIAN, "koi8-r"),
    (RUSSIAN, "windows-1251"),
    (CHINESE, "gbk"),
    (CHINESE, "gb18030"),
    (CHINESE + "\n", "utf-16-le"),
    (TAIWANESE, "big5"),
    (JAPANESE, "shift_jis"),
    (JAPANESE, "euc_jp"),
    (JAPANESE, "iso2022_jp"),
    (JAPANESE + " 1", "utf-16-be"),
    (KOREAN, "euc_kr"),
    (KOREAN, "utf-16-le"),
    (GREEK, "windows-1253"),
    (THAI, "tis-620"),
    (POLISH, "windows-1250"),
    ("Hello plain world of text without a mark", "utf-16-le"),
    ("Hello plain world of text without a mark", "utf-32-be"),
]


def parse(path, content: bytes) -> list[ParsedDocument]:
    path.write_bytes(content)
    kind = formats.format_of(path.name)
    assert kind
    items = formats.parse_file(str(path), kind, ParseLimits(), RowFields())
    return [item for item in items if isinstance(item, ParsedDocument)]


def as_csv(text: str) -> str:
    file = io.StringIO()
    csv.writer(file).writerows([["id", "text"], ["1", text], ["2", "x"]])
    return file.getvalue()


WRITERS = {
    ".txt": lambda text: text,
    ".md": lambda text: f"# Title\n\n{text}\n",
    ".py": lambda text: f'x = 1  # {text.strip()}\n"""{text}"""\n',
    ".html": lambda text: f"<html><body><h1>x</h1><p>{text}</p></body></html>",
    ".csv": as_csv,
    ".tsv": lambda text: f"id\ttext\n1\t{text.strip()}\n2\tx\n",
    ".jsonl": lambda text: json.dumps({"text": text}, ensure_ascii=False) + '\n{"text": "x"}\n',
    ".json": lambda text: json.dumps([{"text": text}], ensure_ascii=False),
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(("text", "codec"), CASES)
def test_an_encoding_that_is_not_named_is_recognised(tmp_path, text, codec, suffix):
    found = parse(tmp_path / f"a{suffix}", WRITERS[suffix](text).encode(codec))
    assert text.strip() in found[0].text
    assert found[0].metadata["encoding"]
    assert "a guess" in found[0].warnings[0]
    assert all("encoding" in one.metadata and not one.warnings for one in found[1:])


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("codec", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_mark_is_no_guess(tmp_path, suffix, codec):
    found = parse(tmp_path / f"a{suffix}", WRITERS[suffix](RUSSIAN).encode(codec))
    assert RUSSIAN in found[0].text
    assert found[0].metadata.get("encoding") == (None if codec == "utf-8-sig" else codec)
    assert found[0].warnings == ()


@pytest.mark.parametrize(
    ("head", "text", "codec", "noted"),
    [
        ('<meta charset="gb2312">', CHINESE, "gbk", ""),
        ('<meta charset="iso-8859-1">', "Naïve – “quoted”", "windows-1252", ""),
        (
            '<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">',
            RUSSIAN,
            "koi8-r",
            "",
        ),
        ('<?xml version="1.0" encoding="Shift_JIS"?>', JAPANESE, "shift_jis", ""),
        ('<meta charset="iso-8859-1">', GERMAN, "utf-8", ""),  # the bytes know better
        ('<meta charset="utf-8">', GERMAN, "windows-1252", "names utf-8"),
        ('<meta charset="iso-8859-1">', RUSSIAN, "koi8-r", "names iso-8859-1"),
        ('<meta charset="iso-8859-1">', CHINESE, "gbk", "names iso-8859-1"),
        ('<meta charset="big5">', JAPANESE, "shift_jis", "names big5"),
        ('<meta charset="no-such-thing">', GERMAN, "windows-1252", "names no-such-thing"),
        ('<meta charset="rot13">', GERMAN, "windows-1252", "names rot13"),
        ('<meta charset="utf-16">', GERMAN, "windows-1252", "names utf-16"),
    ],
)
def test_what_a_page_says_of_its_encoding(tmp_path, head, text, codec, noted):
    (found,) = parse(tmp_path / "a.html", f"{head}<p>{text}</p>".encode(codec))
    assert found.text == text
    assert ("encoding" in found.metadata) == (codec != "utf-8")
    assert found.warnings[0].startswith(noted) if noted else found.warnings == ()


def test_source_code_names_its_encoding(tmp_path):
    code = "# -*- coding: latin-1 -*-\nx = 'ÿþ'\n"
    (found,) = parse(tmp_path / "a.py", code.encode("latin-1"))
    assert (found.text, found.warnings) == (code, ())


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_lines_of_several_encodings_are_read_each_in_its_own(tmp_path, suffix):
    content = f"text\n{RUSSIAN}\n".encode() + f"{GERMAN}\n".encode("latin-1") + GREEK.encode()
    found = parse(tmp_path / f"a{suffix}", content)
    text = "\n".join(one.text for one in found)
    assert all(line in text for line in (RUSSIAN, GERMAN, GREEK))
    assert "1 lines are not UTF-8 (the first is line 3)" in found[0].warnings[0]


def test_a_character_that_was_cut_does_not_change_the_encoding(tmp_path):
    (found,) = parse(tmp_path / "a.txt", RUSSIAN.encode()[:-2])
    assert found.text == RUSSIAN[:-2] + "\ufffd"
    assert found.warnings == ("not UTF-8 from line 1; such bytes are read as U+FFFD",)


@pytest.mark.parametrize(
    "content",
    [b"x\0y", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", bytes(range(256)) * 9, b"\1\0\2\0\3\0", b"\0" * 64],
)
@pytest.mark.parametrize("suffix", [".txt", ".html", ".py", ".json"])
def test_a_binary_is_not_taken_for_text(tmp_path, content, suffix):
    with pytest.raises(UnreadableFileError, match="binary"):
        parse(tmp_path / f"a{suffix}", content)


def test_a_binary_with_the_name_of_a_table(tmp_path):
    content = b"id,text\n" + bytes(code for code in range(1, 256)) * 40
    with pytest.raises(UnreadableFileError, match="binary"):
        parse(tmp_path / "a.csv", content)


LINES = st.lists(
    st.sampled_from([GERMAN, RUSSIAN, CHINESE, "plain", ""]).flatmap(
        lambda text: st.sampled_from(["utf-8", "gb18030", "utf-8"]).map(
            lambda codec: text.encode(codec)
        )
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(LINES, st.sampled_from([b"\n", b"\r\n"]))
def test_a_stream_is_read_as_its_whole_is(lines, end):
    content = end.join(lines)
    stream, encoding = as_utf8(io.BytesIO(content))
    assert encoding == find_encoding(content)
    assert stream.read().decode("utf-8-sig", "replace") == encoding.decode(content)
