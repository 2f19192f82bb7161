"""Formats that are text with marks: the text without the marks, and sections at headings."""

import json

import pytest

from opengte.search.parse.base import ParseProblem, UnreadableFileError
from tests.support.parsing import one, parse, titles

DOCBOOK = """<?xml version="1.0"?><!DOCTYPE article [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<article><articleinfo><title>Guide</title><author>Ann</author></articleinfo>
<sect1><title>Copy <literal>x</literal></title><para>Use <command>cp</command>&x; and
wait.</para><itemizedlist><listitem><para>one</para></listitem></itemizedlist>
<programlisting>cp a b
  cp c d</programlisting><table><row><entry>a</entry><entry>b</entry></row></table></sect1>
</article>"""


def test_docbook_has_titles_as_sections_and_rows_as_lines(tmp_path):
    found = one(tmp_path / "a.xml", DOCBOOK)
    assert titles(found) == ["Guide", "Copy x"]
    assert found.text == ("Guide\n\nCopy x\n\nUse cp and wait.\n\none\n\ncp a b\n  cp c d\na | b")
    assert found.title == "Guide"


@pytest.mark.parametrize("content", ["", "no xml", "<a><b></a>"])
def test_what_is_no_xml_is_unreadable(tmp_path, content):
    with pytest.raises(UnreadableFileError):
        parse(tmp_path / "a.xml", content)


MAN = r""".TH CP 1
.\" a comment
.de XX
hidden
..
.SH NAME
cp \- copy files
.SH OPTIONS
.TP
.BR \-r ", " \-\-recursive
copy \fIfolders\fR \(en all
.nf
$ cp a b
  indented
.fi
"""


def test_a_manual_page(tmp_path):
    found = one(tmp_path / "cp.1", MAN)
    assert found.text == (
        "NAME\n\ncp - copy files\n\nOPTIONS\n\n-r, --recursive copy folders – all\n\n"
        "$ cp a b\n  indented"
    )
    assert (titles(found), found.title, found.format) == (["NAME", "OPTIONS"], "CP(1)", "man")


def test_a_manual_page_in_mdoc(tmp_path):
    page = ".Dd May 1\n.Dt CP 1\n.Sh NAME\n.Nm cp\n.Nd copy\n.Sh USE\n.Nm\n.Op Fl r Ar file\n"
    found = one(tmp_path / "cp.mdoc", page)
    assert found.text == "NAME\n\ncp copy\n\nUSE\n\ncp [-r file]"


def test_a_notebook_has_markdown_code_and_outputs(tmp_path):
    outputs = [
        {"output_type": "stream", "text": ["3\n"]},
        {"output_type": "execute_result", "data": {"text/plain": "4", "image/png": "iVBOR"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Head\n", "Words."]},
        {"cell_type": "code", "source": "print(3)", "outputs": outputs},
    ]
    found = parse(tmp_path / "a.ipynb", json.dumps({"cells": cells, "metadata": {}}))[0]
    assert found.text == "# Head\nWords.\n\nprint(3)\n\n3\n\n4"
    assert [(section.start, section.title) for section in found.sections] == [(0, "Head")]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": 3}', '{"cells": [3]}'])
def test_what_is_no_notebook_is_unreadable(tmp_path, content):
    with pytest.raises(UnreadableFileError, match="not a notebook"):
        parse(tmp_path / "a.ipynb", content)


SRT = """1
00:00:01,000 --> 00:00:02,000
<i>Hello</i> there

2
00:01:05,500 --> 00:01:06,000
- Who is it?
"""
VTT = (
    "WEBVTT\n\nNOTE not said\n\na\n00:01.000 --> 00:02.000\n<v Ann>Hello\n\n"
    "00:03.000 --> 00:04.000\nHello"
)


def test_subtitles(tmp_path):
    found = one(tmp_path / "a.srt", SRT)
    assert found.text == "00:00:00\nHello there\n\n00:01:00\n- Who is it?"
    assert titles(found) == ["00:00:00", "00:01:00"]
    assert one(tmp_path / "a.vtt", VTT).text == "00:00:00\nAnn: Hello\nHello"


def test_settings_keep_their_characters(tmp_path):
    toml = '# c\n[tool.x]\na = 1\n[[y]]\n"b" = 2\n'
    found = one(tmp_path / "a.toml", toml)
    assert (found.text, titles(found)) == (toml, ["[tool.x]", "[[y]]"])
    found = one(tmp_path / "a.yaml", "a: 1\nlist:\n  - x\nmore:  # c\n  k: v\n")
    assert [title.split(":")[0] for title in titles(found)] == ["list", "more"]


def named(path, text):
    """Sections of code, each of which begins at its definition."""
    found = parse(path, text)[0]
    lines = [found.text[s.start :].split("\n", 1)[0].strip() for s in found.sections]
    return list(zip(titles(found), lines, strict=True))


def test_python_has_nested_definitions(tmp_path):
    text = (
        "# é\nclass A:\n    @property\n    def f(self):\n        def g(): ...\n\n"
        "if x:\n    async def h(): ...\n"
    )
    assert named(tmp_path / "a.py", text) == [
        ("A", "class A:"),
        ("A.f", "@property"),
        ("A.f.g", "def g(): ..."),
        ("h", "async def h(): ..."),
    ]
    assert named(tmp_path / "b.py", "def f(:\n  x\n") == [("def f(:", "def f(:")]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.java", "class A {\n  // é\n  void f() {}\n}", ["A", "A.f"]),
        ("a.js", "class A {\n  f() {}\n}\nfunction g() {}", ["A", "A.f", "g"]),
        ("a.ts", "namespace N {\n  interface I {}\n}", ["N", "N.I"]),
        ("a.c", "struct s { int a; };\nint *f(int a) {\n}", ["s", "f"]),
        ("a.cpp", "namespace n {\n class C {\n  void m() {}\n };\n}", ["n", "n.C", "n.C.m"]),
        ("a.rs", "impl S {\n  fn f() {}\n}\nmod m {\n fn g() {}\n}", ["S", "S.f", "m", "m.g"]),
        ("a.go", "package p\nfunc F() {}\n", ["F"]),
        ("a.rb", "module M\n  class C\n    def f\n    end\n  end\nend", ["M", "M.C", "M.C.f"]),
        ("a.cs", "namespace N {\n class C {\n  void F() {}\n }\n}", ["N", "N.C", "N.C.F"]),
        ("a.php", "<?php\nclass A {\n function f() {}\n}", ["A", "A.f"]),
        ("a.sh", "f() {\n  x\n}\n", ["f"]),
    ],
)
def test_other_languages_have_nested_definitions(tmp_path, name, text, expected):
    pytest.importorskip("tree_sitter_java")
    assert [title for title, _ in named(tmp_path / name, text)] == expected


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("README", "words", "text"),
        ("Makefile", "all:\n", "text"),
        ("LICENSE.Apache", "words", "text"),
        ("page", "<!doctype html><p>words", "html"),
        ("notes", MAN, "man"),
    ],
)
def test_files_whose_name_does_not_tell_are_told_by_their_beginning(tmp_path, name, content, kind):
    assert one(tmp_path / name, content).format == kind


def test_a_binary_without_a_suffix_is_skipped(tmp_path):
    assert parse(tmp_path / "program", b"\x7fELF\0\0") == [ParseProblem("binary", failed=False)]
