"""Which files become documents, what of them is text, and what is left out with a reason."""

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte.search.adhoc import files
from opengte.search.adhoc.files import FileText, SkippedText, read_text_file, read_texts


def texts(items):
    return [item.text for item in items if isinstance(item, FileText)]


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path):
    for name in ["b.txt", "a.md", "sub/c.rst", ".git/d.txt", "sub/.e.txt", "__pycache__/f.py"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    assert texts(read_texts([tmp_path])) == ["a.md", "b.txt", "sub/c.rst"]


def test_what_is_left_out_has_a_reason(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x")
    (tmp_path / "b.txt").write_bytes(b"x\0y")
    (tmp_path / "c.txt").write_text("x" * 11)
    os.mkfifo(tmp_path / "d.txt")
    assert [(item.path.name, item.reason, item.failed) for item in read_texts([tmp_path], 10)] == [
        ("a.bin", "not a known kind of text", False),
        ("b.txt", "binary", False),
        ("c.txt", "larger than 10 bytes", False),
        ("d.txt", "not a regular file", False),
    ]


def test_a_named_file_is_read_whatever_its_suffix(tmp_path):
    path = tmp_path / "Dockerfile.prod"
    path.write_text("FROM x")
    assert texts(read_texts([path])) == ["FROM x"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_has_failed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    path.chmod(0)
    assert list(read_texts([tmp_path])) == [
        SkippedText(path, None, "Permission denied", failed=True)
    ]


def test_a_dangling_link_is_left_out(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "nowhere")
    assert [item.reason for item in read_texts([tmp_path])] == ["not a regular file"]


def test_bytes_that_are_not_utf8_are_reported_and_replaced(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\ncaf\xe9\n")
    skipped, document = read_text_file(path)
    reason = "not UTF-8; such bytes are read as U+FFFD"
    assert skipped == SkippedText(path, 3, reason, failed=True)
    assert document == FileText(path, None, "one\ntwo\ncaf\ufffd\n")


def test_html_gives_what_a_reader_sees(tmp_path):
    path = tmp_path / "a.html"
    path.write_text(
        "<html><head><title>T &amp; U</title><style>p {x}</style></head><body><h1>Head</h1>"
        "<script>if (a < b) {}</script><p>One <b>bold</b> word.<p>Two<br>lines &eacute;"
        "<ul><li>a<li>b</ul><!-- no --></body>"
    )
    (text,) = texts(read_text_file(path))
    assert [line for line in text.splitlines() if line] == [
        *["T & U", "Head", "One bold word.", "Two", "lines é", "a", "b"]
    ]


def test_json_gives_its_strings(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"title": "T", "n": 1, "parts": [{"text": "a"}, "b", null]}')
    assert texts(read_text_file(path)) == ["T\na\nb"]


def test_json_lines_give_a_document_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "note": "n"}\n\nbroken\n{"body": "b", "note": "n"}\n"c"\n')
    found = list(read_text_file(path))
    assert [(d.line, d.text) for d in found if isinstance(d, FileText)] == [
        (1, "a"),
        (4, "b\nn"),
        (5, "c"),
    ]
    (bad,) = [item for item in found if isinstance(item, SkippedText)]
    assert (bad.line, bad.failed) == (3, True)
    assert bad.reason.startswith("not JSON: ")


@given(st.binary(), st.sampled_from(sorted(files.PARSERS)))
def test_no_content_stops_the_search(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    assert all(item.path == path for item in read_text_file(path))


def test_deep_json_is_a_reason_not_a_crash(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 10 * sys.getrecursionlimit())
    (item,) = read_text_file(path)
    assert isinstance(item, SkippedText)
    assert item.failed
