"""One parser a format, and files that mean no good."""

import csv
import io
import json
import os
import struct
import sys
import threading
import time
import zipfile
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opengte.search.parse import formats, kinds
from opengte.search.parse.base import (
    ParsedDocument,
    ParseLimits,
    ParseProblem,
    RowFields,
    Section,
    UnreadableFileError,
)
from opengte.search.parse.process import ParserProcess
from tests.support.pdf_writer import assembled

LIMITS = ParseLimits()


def parse(path, content: bytes | str | None = None, limits=LIMITS, fields=None):
    """Parse in this process: documents and problems, without the hash at the end."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    kind = formats.format_of(path.name) or "text"
    items = list(formats.parse_file(str(path), kind, limits, fields or RowFields()))
    return [item for item in items if not isinstance(item, str)]


def one(path, content=None, **options) -> ParsedDocument:
    (item,) = parse(path, content, **options)
    assert isinstance(item, ParsedDocument), item
    return item


# --- text -----------------------------------------------------------------------------------------


def test_markdown_has_headings_front_matter_and_its_own_characters(tmp_path):
    text = (
        "---\ntitle: The Title\nyear: 2021\ntags: [a, b]\nday: 2021-03-04\nnested: {x: 1}\n---\n"
        "Intro.\n\n# One *two*\n\n```\n# no heading\n```\n\nSetext\n------\ntext\n"
    )
    found = one(tmp_path / "a.md", text)
    assert found.title == "The Title"
    assert found.metadata == {"year": 2021, "tags": "a, b", "day": "2021-03-04"}
    assert [section.title for section in found.sections] == ["One *two*", "Setext"]
    assert [text[s.start :][:3] for s in found.sections] == ["# O", "Set"]
    assert len(found.text) == len(text)
    assert found.text.lstrip().startswith("Intro.")


@pytest.mark.parametrize("front", ["a: [", "a: !!python/object/apply:os.system ['x']", "- 1", "&a"])
def test_odd_front_matter_is_a_problem_and_the_text_is_read(tmp_path, front):
    items = parse(tmp_path / "a.md", f"---\n{front}\n---\ntext")
    assert items[-1].text.strip() == "text"
    assert not items[-1].metadata


def test_without_front_matter_the_first_heading_is_the_title(tmp_path):
    found = one(tmp_path / "a.md", "# Head\n\ntext")
    assert (found.title, found.text, found.sections) == (
        "Head",
        "# Head\n\ntext",
        (Section(0, "Head"),),
    )


def test_source_code_has_its_definitions(tmp_path):
    found = one(
        tmp_path / "a.py", "import x\n\ndef f(a):\n    def inner(): ...\n\nclass C:\n    x\n"
    )
    assert [section.title for section in found.sections] == ["f", "f.inner", "C"]


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_announce_themselves(tmp_path, codec):
    assert one(tmp_path / "a.txt", "Grüße".encode(codec)).text.strip("\ufeff") == "Grüße"


def test_bytes_that_are_not_utf8_are_reported(tmp_path):
    found = one(tmp_path / "a.txt", b"one\ncaf\xe9")
    assert (found.text, found.metadata) == ("one\ncafé", {"encoding": "windows-1252"})
    assert found.warnings == (
        "its encoding is not UTF-8 and not named; read as windows-1252, a guess from its bytes",
    )


def test_mojibake_is_reported(tmp_path):
    text = "Grüße aus Köln, schöne Tage".encode().decode("latin-1") * 2
    assert "wrongly decoded" in one(tmp_path / "a.txt", text).warnings[0]


def test_a_binary_with_the_name_of_a_text(tmp_path):
    with pytest.raises(UnreadableFileError, match="binary"):
        parse(tmp_path / "a.txt", b"x\0y")


# --- pages, documents, mail -----------------------------------------------------------------------

PAGE = """<html lang="en"><head><title>T &amp; U</title><style>p {x}</style></head><body>
<nav><a href="/">Home</a> <a href="/x">Menu entry</a></nav><main><h1>Head</h1>
<script>if (a < b) {}</script><p>One <b>bold</b> word. %s</p><h2>Second</h2>
<p>Two<br>lines &eacute;</p><ul><li>a</li><li>b</li></ul></main><!-- no -->
<footer>Imprint and cookies</footer></body></html>"""


def test_a_web_page_gives_its_main_part(tmp_path):
    found = one(tmp_path / "a.html", PAGE % ("A sentence of the main part of this page. " * 20))
    assert found.title == "T & U"
    assert found.metadata == {"language": "en"}
    assert "One bold word." in found.text
    assert "lines é" in found.text
    assert not any(word in found.text for word in ("Menu entry", "cookies", "if (a", "{x}"))
    assert [section.title for section in found.sections] == ["Head", "Second"]
    assert all(found.text[s.start :].startswith(s.title) for s in found.sections)


def test_a_small_page_is_read_without_its_menu_too(tmp_path):
    text = one(tmp_path / "a.html", PAGE % "").text
    assert text == "Head\n\nOne bold word.\n\nSecond\n\nTwo\nlines é\n\n- a\n- b"


def test_a_page_that_names_its_encoding(tmp_path):
    markup = '<meta charset="iso-8859-1"><p>Grüße</p>'.encode("latin-1")
    found = one(tmp_path / "a.html", markup)
    assert "Grüße" in found.text
    assert found.warnings == ()


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF file with a line of text on each page."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects.append(f"<< /Title ({title}) /Author (Ann) >>")
    return assembled(objects, f"/Info {len(objects)} 0 R")


def test_a_pdf_gives_pages_as_sections(tmp_path):
    found = one(tmp_path / "a.pdf", pdf("First page here", "Second page here", title="A report"))
    assert found.title == "A report"
    assert found.metadata["author"] == "Ann"
    assert found.metadata["pages"] == 2
    assert [section.title for section in found.sections] == ["page 1", "page 2"]
    assert found.text[found.sections[1].start :].startswith("Second page here")


def test_a_pdf_with_a_loop_of_pages_ends(tmp_path):
    looping = assembled(
        ["<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>"]
    )
    path = tmp_path / "a.pdf"
    path.write_bytes(looping)
    with ParserProcess(ParseLimits(seconds=20)) as parser:
        items = list(parser.parse(str(path), "pdf"))
    assert isinstance(items[-1], str)


@pytest.mark.parametrize("content", [b"", b"%PDF-1.4", b"no pdf", pdf("x")[:200]])
def test_what_is_no_pdf_is_unreadable(tmp_path, content):
    with pytest.raises(UnreadableFileError, match="not a PDF"):
        parse(tmp_path / "a.pdf", content)


def docx(paragraphs: str, extra: dict[str, bytes] | None = None) -> bytes:
    """A Word document; paragraphs is its XML."""
    space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    types = "http://schemas.openxmlformats.org/package/2006/content-types"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{types}"><Override PartName="/word/document.xml" '
        'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.'
        'main+xml"/></Types>',
        "word/document.xml": f'<w:document xmlns:w="{space}"><w:body>{paragraphs}</w:body>'
        "</w:document>",
        "word/styles.xml": f'<w:styles xmlns:w="{space}"><w:style w:type="paragraph" '
        'w:styleId="Heading1"><w:name w:val="heading 1"/></w:style></w:styles>',
        "docProps/core.xml": '<cp:coreProperties xmlns:cp="x" xmlns:dc="http://purl.org/dc/'
        'elements/1.1/"><dc:title>Minutes</dc:title><dc:creator>Ann</dc:creator>'
        "</cp:coreProperties>",
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**parts, **(extra or {})}.items():
            archive.writestr(name, text)
    return made.getvalue()


HEADED = (
    '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Head</w:t></w:r></w:p>'
    "<w:p><w:r><w:t>A paragraph.</w:t></w:r></w:p>"
    "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>cell</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
)


def test_a_word_document(tmp_path):
    found = one(tmp_path / "a.docx", docx(HEADED))
    assert (found.title, found.metadata) == ("Minutes", {"author": "Ann"})
    assert found.text == "Head\n\nA paragraph.\n\ncell"
    assert [section.title for section in found.sections] == ["Head"]


def test_a_zip_bomb_is_refused_after_what_it_may_unpack_to(tmp_path):
    bomb = docx(HEADED, {"word/bomb.xml": b"\0" * 50_000_000})
    assert len(bomb) < 100_000
    with pytest.raises(UnreadableFileError, match="unpacks to more than 10,000,000 bytes"):
        parse(tmp_path / "a.docx", bomb, limits=ParseLimits(unpacked_bytes=10_000_000))


def test_sizes_that_a_zip_lies_about_do_not_help_it(tmp_path):
    bomb = docx(HEADED, {"word/bomb.xml": b"\0" * 50_000_000})
    small = bomb.replace(struct.pack("<I", 50_000_000), struct.pack("<I", 10))
    with pytest.raises(UnreadableFileError):
        parse(tmp_path / "a.docx", small, limits=ParseLimits(unpacked_bytes=10_000_000))


BILLION = (
    '<!DOCTYPE a [<!ENTITY b0 "ha">'
    + "".join(f'<!ENTITY b{n} "{f"&b{n - 1};" * 10}">' for n in range(1, 12))
    + "]><a>&b11;</a>"
)


def test_entities_that_multiply_are_no_document(tmp_path):
    path = tmp_path / "a.docx"
    path.write_bytes(docx("", {"docProps/core.xml": BILLION.encode()}))
    with ParserProcess(ParseLimits(seconds=20, memory_bytes=2**30)) as parser:
        items = list(parser.parse(str(path), "docx"))
    assert isinstance(items[-1], str)


@pytest.mark.parametrize("content", [b"\xd0\xcf\x11\xe0" + b"x" * 600, b"PK\x03\x04", b"", b"x"])
def test_what_is_no_word_document_is_unreadable(tmp_path, content):
    with pytest.raises(UnreadableFileError):
        parse(tmp_path / "a.docx", content)


MAIL = b"""From: Ann <ann@example.org>\r\nTo: bob@example.org
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=
Date: Mon, 02 Mar 2020 10:00:00 +0100\r\nMIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b\r\n
--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Hello <b>Bob</b></p>
--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=x.pdf\r\n\r\nx
--b--\r\n"""


def test_a_message(tmp_path):
    found, attached = parse(tmp_path / "a.eml", MAIL)
    assert (found.title, found.text.strip()) == ("Grüße", "Hello Bob")
    assert found.metadata == {
        "from": "Ann <ann@example.org>",
        "to": "bob@example.org",
        "date": "2020-03-02T10:00:00+01:00",
        "attachments": "x.pdf",
    }
    assert found.warnings == ()
    assert isinstance(attached, ParseProblem) and attached.failed
    assert (attached.part, attached.reason[:9]) == ("x.pdf", "not a PDF")


def test_a_mailbox(tmp_path):
    plain = b"From x Mon Mar  2 10:00:00 2020\nMessage-ID: <%d@x>\nSubject: s%d\n\nbody %d\n\n"
    content = b"".join(plain % (n, n, n) for n in range(3))
    found = parse(tmp_path / "a.mbox", content)
    assert [(item.row, item.title, item.text.strip()) for item in found] == [
        (f"<{n}@x>", f"s{n}", f"body {n}") for n in range(3)
    ]


# --- tables ---------------------------------------------------------------------------------------


def test_json_lines_give_a_document_a_line(tmp_path):
    content = (
        '{"_id": "x", "title": "T", "text": "a", "year": 3, "l": ["p", "q"], "o": {}}\n\n'
        'broken\n{"note": "b", "n": 1.5}\n"c"\n[1, "d"]\n{"text": "\\ud800"}'
    )
    found = parse(tmp_path / "a.jsonl", content)
    first, bad, strings, plain, listed, odd = found
    assert (first.row, first.title, first.text, first.line) == ("x", "T", "a", 1)
    assert first.metadata == {"year": 3, "l": "p, q"}
    assert isinstance(bad, ParseProblem)
    assert (bad.line, bad.reason[:9]) == (3, "not JSON:")
    assert (strings.text, strings.metadata) == ("b", {"n": 1.5, "note": "b"})
    assert [plain.text, listed.text, odd.text] == ["c", "d", "\ufffd"]


def test_a_line_that_is_too_long_is_not_held(tmp_path):
    content = '{"text": "' + "x" * 5000 + '"}\n{"text": "short"}\n'
    bad, good = parse(tmp_path / "a.jsonl", content, limits=ParseLimits(row_bytes=1000))
    assert (bad.line, bad.reason) == (1, "line is longer than 1,000 bytes")
    assert (good.text, good.line) == ("short", 2)


def test_fields_of_ones_own(tmp_path):
    fields = RowFields(("head", "main"), title="head", id="key")
    content = '{"head": "H", "main": "M", "key": 7, "x": 1}\n{"main": "only"}\n'
    good, bad = parse(tmp_path / "a.jsonl", content, fields=fields)
    assert (good.text, good.title, good.row, good.metadata) == ("H\n\nM", "H", "7", {"x": 1})
    assert bad.reason == "has no text in the field `head`"


def test_csv_rows(tmp_path):
    file = io.StringIO()
    csv.writer(file).writerows(
        [["id", "text", "year"], ["a", 'two\n"lines"', "3"], ["b", "x", "4", "more"]]
    )
    first, bad, second = parse(tmp_path / "a.csv", file.getvalue())
    assert (first.row, first.text, first.metadata) == ("a", 'two\n"lines"', {"year": "3"})
    assert bad.reason == "has 1 fields more than the first row"
    assert second.row == "b"


def test_parquet_rows(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"id": [1, 2], "text": ["a", "b"], "when": pa.array([0, 1], pa.date32())})
    pq.write_table(table, tmp_path / "a.parquet")
    found = parse(tmp_path / "a.parquet")
    assert [(item.row, item.text) for item in found] == [("1", "a"), ("2", "b")]
    assert found[0].metadata == {"when": "1970-01-01"}
    with pytest.raises(UnreadableFileError, match="not Parquet"):
        parse(tmp_path / "b.parquet", b"PAR1 no")


def test_json_is_one_document_or_many(tmp_path):
    listed = parse(tmp_path / "a.json", json.dumps([{"text": "a"}, {"text": "b"}]))
    assert [(item.row, item.text) for item in listed] == [("1", "a"), ("2", "b")]
    assert one(tmp_path / "b.json", '{"a": {"b": ["x", 1]}, "c": "y"}').text == "x\ny"
    with pytest.raises(UnreadableFileError, match="not JSON"):
        parse(tmp_path / "c.json", "[" * 100_000)


# --- the process ----------------------------------------------------------------------------------


def test_the_process_gives_what_parsing_here_gives(tmp_path):
    (tmp_path / "a.md").write_text("---\nx: 1\n---\n# Head\n\ntext")
    with ParserProcess() as parser:
        *items, digest = parser.parse(str(tmp_path / "a.md"), "markdown")
        assert items == parse(tmp_path / "a.md")
        assert len(digest) == 64
        problem, digest = parser.parse(str(tmp_path / "missing.md"), "markdown")
        assert (problem, digest) == (ParseProblem("No such file or directory"), "")
        assert len(list(parser.parse(str(tmp_path / "a.md"), "text"))) == 2


def test_a_parser_that_never_ends_is_ended(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "slow.py").write_text("x" * 100)
    code = (
        "import time, opengte.search.parse.formats as k, opengte.search.parse.worker as w\n"
        "parse = w.parse_file\n"
        "def slow(path, *rest):\n"
        "    if path.endswith('slow.py'):\n"
        "        while True: pass\n"
        "    yield from parse(path, *rest)\n"
        "w.parse_file = slow\nw.main()\n"
    )
    (tmp_path / "stuck.py").write_text(code)
    parser = ParserProcess(ParseLimits(seconds=0.5))
    parser.command = [sys.executable, str(tmp_path / "stuck.py")]
    with parser:
        start = time.monotonic()
        problem, digest = parser.parse(str(tmp_path / "slow.py"), "code")
        assert problem == ParseProblem("took longer than 0.5 s to parse")
        assert digest == ""
        assert time.monotonic() - start < 20
        assert len(list(parser.parse(str(tmp_path / "a.txt"), "text"))) == 2


def test_a_parser_that_eats_memory_is_ended(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" + '{"text":"x"},' * 3_000_000 + "0]")
    with ParserProcess(ParseLimits(memory_bytes=300 << 20)) as parser:
        problem, digest = parser.parse(str(path), "json")
        assert "memory" in problem.reason or "ended its parser" in problem.reason
        (tmp_path / "b.txt").write_text("x")
        assert len(list(parser.parse(str(tmp_path / "b.txt"), "text"))) == 2


def test_a_file_over_the_limit_is_not_read(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(2 << 30)  # 2 GiB, sparse
    with ParserProcess() as parser:
        start = time.monotonic()
        problem, digest = parser.parse(str(path), "text")
        assert problem.reason == f"larger than {ParseLimits().file_bytes:,} bytes"
        assert time.monotonic() - start < 20


def test_a_file_that_changes_while_it_is_read_is_reported(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "row of some length"}\n' * 20_000)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            with path.open("a") as file:
                file.write('{"text": "more"}\n')

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with ParserProcess() as parser:
            items = []
            for item in parser.parse(str(path), "jsonl"):
                items.append(item)
                if len(items) > 20_000:
                    stop.set()
    finally:
        stop.set()
        thread.join()
    assert items[-2:] == [ParseProblem(formats.CHANGED, retry=True), ""]


def test_a_caller_that_goes_away_leaves_nothing_for_the_next(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 50)
    with ParserProcess() as parser:
        next(iter(parser.parse(str(tmp_path / "a.jsonl"), "jsonl")))
        assert len(list(parser.parse(str(tmp_path / "a.jsonl"), "jsonl"))) == 51


@given(
    content=st.binary(max_size=300),
    kind=st.sampled_from(sorted({*kinds.SUFFIXES.values(), kinds.GUESSED})),
)
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_content_is_a_crash(content, kind, any_parser, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    *items, digest = any_parser.parse(str(path), kind)
    assert isinstance(digest, str)
    assert not any("cannot be parsed" in getattr(item, "reason", "") for item in items), items


@pytest.fixture(scope="module")
def any_parser():
    with ParserProcess() as parser:
        yield parser


def test_zlib_bombs_inside_a_pdf_end(tmp_path):
    packed = zlib.compress(b"BT (x) Tj ET " * 5_000_000, 9)
    stream = f"<< /Length {len(packed)} /Filter /FlateDecode >>\nstream\n"
    content = pdf("First page here").replace(
        b"<< /Length 46 >>\nstream\n", stream.encode("latin-1")
    )
    path = tmp_path / "a.pdf"
    path.write_bytes(content + packed)
    with ParserProcess(ParseLimits(seconds=20)) as parser:
        assert isinstance(list(parser.parse(str(path), "pdf"))[-1], str)
