"""Office documents and books: nothing of the text is lost, tables are rows, parts are sections."""

import io
import os

import pytest

from opengte.errors import MissingExtraError
from opengte.search.parse.base import ParseProblem, UnreadableFileError
from tests.support.parsing import linked, one, packed, parse, titles

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
M = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
A = (
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)


def paragraph(text, style="", inside=""):
    settings = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{settings}<w:r><w:t>{text}</w:t></w:r>{inside}</w:p>"


def test_a_word_document_keeps_what_stands_around_its_text(tmp_path):
    """kb/13: formulas, headers, comments and text boxes were dropped, rows were torn apart."""
    power = (
        "<m:sSup><m:e><m:r><m:t>x</m:t></m:r></m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup>"
    )
    fraction = (
        f"<m:oMath><m:f><m:num>{power}</m:num><m:den><m:r><m:t>a+b</m:t></m:r></m:den></m:f>"
        "</m:oMath>"
    )
    box = (
        '<w:r><mc:AlternateContent xmlns:mc="mc"><mc:Choice><w:txbxContent>'
        f"{paragraph('in a box')}</w:txbxContent></mc:Choice><mc:Fallback><w:txbxContent>"
        f"{paragraph('in a box')}</w:txbxContent></mc:Fallback></mc:AlternateContent></w:r>"
    )
    cells = [[paragraph("Crop"), paragraph("Kilos")], [paragraph("Basil"), paragraph("3")]]
    rows = "".join(
        "<w:tr>" + "".join(f"<w:tc>{cell}</w:tc>" for cell in row) + "</w:tr>" for row in cells
    )
    body = (
        paragraph("Harvest", "Kopf")
        + paragraph("For ", inside=fraction)
        + f"<w:tbl>{rows}</w:tbl>"
        + paragraph("after", inside=box)
        + "<w:p><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del></w:p>"
    )
    part = f"<w:x {W}><w:p><w:r><w:t>{{}}</w:t></w:r></w:p></w:x>"
    content = packed(
        {
            "word/document.xml": f"<w:document {W} {M}><w:body>{body}</w:body></w:document>",
            "word/_rels/document.xml.rels": linked(
                a="header:header1.xml", b="comments:comments.xml", c="footnotes:footnotes.xml"
            ),
            "word/header1.xml": part.format("at the top"),
            "word/comments.xml": part.format("a remark"),
            "word/footnotes.xml": part.format("a note"),
            "word/styles.xml": f'<w:styles {W}><w:style w:styleId="Kopf"><w:name w:val="Kopf"/>'
            '<w:basedOn w:val="H1"/></w:style><w:style w:styleId="H1"><w:name w:val="heading 1"/>'
            "</w:style></w:styles>",
        }
    )
    found = one(tmp_path / "a.docx", content)
    assert found.text == (
        "Harvest\n\nFor (x^2)/(a+b)\n\nCrop | Kilos\nBasil | 3\n\nafter\n\nin a box\n\n"
        "Header\n\nat the top\n\nFootnotes\n\na note\n\nComments\n\na remark"
    )
    assert titles(found) == ["Harvest", "Header", "Footnotes", "Comments"]
    assert found.title == "Harvest"


def test_slides_are_sections_with_tables_and_notes(tmp_path):
    def shape(text, kind=""):
        place = f'<p:nvPr><p:ph type="{kind}"/></p:nvPr>' if kind else ""
        return (
            f"<p:sp><p:nvSpPr>{place}</p:nvSpPr><p:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p>"
            "</p:txBody></p:sp>"
        )

    def cell(text):
        return f"<a:tc><a:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></a:txBody></a:tc>"

    table = f"<a:tbl><a:tr>{cell('a')}{cell('b')}</a:tr><a:tr>{cell('c')}{cell('d')}</a:tr></a:tbl>"
    slide = "<p:sld {}><p:spTree>{}</p:spTree></p:sld>"
    content = packed(
        {
            "ppt/presentation.xml": f'<p:presentation {A}><p:sldIdLst><p:sldId id="1" r:id="r2"/>'
            '<p:sldId id="2" r:id="r1"/></p:sldIdLst></p:presentation>',
            "ppt/_rels/presentation.xml.rels": linked(
                r1="slide:slides/slide1.xml", r2="slide:slides/slide2.xml"
            ),
            "ppt/slides/slide1.xml": slide.format(A, shape("body") + shape("7", "sldNum")),
            "ppt/slides/slide2.xml": slide.format(A, shape("Head", "title") + table),
            "ppt/slides/_rels/slide2.xml.rels": linked(n="notesSlide:../notes/notes1.xml"),
            "ppt/notes/notes1.xml": slide.format(A, shape("say this") + shape("2", "sldNum")),
        }
    )
    found = one(tmp_path / "a.pptx", content)
    assert found.text == "Head\n\na | b\nc | d\n\nNotes: say this\n\nSlide 2\n\nbody"
    assert (titles(found), found.metadata) == (["Head", "Slide 2"], {"slides": 2})


ODF = (
    'xmlns:office="o" xmlns:text="t" xmlns:table="tb" xmlns:draw="d" xmlns:xlink="x" '
    'xmlns:presentation="p" xmlns:style="s"'
)


def test_an_open_document_text(tmp_path):
    body = (
        "<text:h>Plan</text:h><text:p>One<text:s text:c='2'/>two"
        "<office:annotation><text:p>why?</text:p></office:annotation></text:p>"
        "<text:list><text:list-item><text:p>first</text:p></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>"
        "<table:table-cell table:number-columns-repeated='2'><text:p>b</text:p></table:table-cell>"
        "</table:table-row></table:table>"
        "<text:p><draw:object xlink:href='./Object 1'/></text:p>"
    )
    content = packed(
        {
            "content.xml": f"<office:x {ODF}><office:body><office:text>{body}</office:text>"
            "</office:body></office:x>",
            "Object 1/content.xml": "<math><mi>E</mi><mo>=</mo><msup><mi>c</mi><mn>2</mn>"
            "</msup></math>",
            "styles.xml": f"<office:x {ODF}><style:master-page><style:header><text:p>Top</text:p>"
            "</style:header></style:master-page></office:x>",
        }
    )
    found = one(tmp_path / "a.odt", content)
    assert found.text == "Plan\n\nOne  two [why?]\n- first\na | b | b\n\nE=c^2\n\nHeader\n\nTop"
    assert titles(found) == ["Plan", "Header"]


def test_sheets_are_sections_and_rows_are_lines(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "Costs"
    for row in (["Name", "Euro"], ["Ann", 3.0], [None, None], ["Bob", 2.5]):
        book.active.append(row)
    book.active["A2"].comment = openpyxl.comments.Comment("on leave", "x")
    book.create_sheet("Empty")
    made = io.BytesIO()
    book.save(made)
    found = one(tmp_path / "a.xlsx", made.getvalue())
    assert found.text == (
        "Costs\nName | Euro\nAnn | 3\nBob | 2.5\n\nEmpty\n\nComments and drawings\n\non leave"
    )
    assert titles(found) == ["Costs", "Empty", "Comments and drawings"]


def test_an_open_document_spreadsheet(tmp_path):
    table = (
        "<table:table table:name='S1'><table:table-row><table:table-cell><text:p>a</text:p>"
        "</table:table-cell><table:table-cell table:number-columns-repeated='16000'/>"
        "</table:table-row></table:table>"
    )
    content = f"<o:x xmlns:o='o' {ODF}><o:body><o:spreadsheet>{table}"
    content += "</o:spreadsheet></o:body></o:x>"
    found = one(tmp_path / "a.ods", packed({"content.xml": content}))
    assert (found.text, titles(found)) == ("S1\na", ["S1"])


def book(**extra):
    page = (
        "<html><head><title>{0}</title></head><body><h1>{0}</h1><p>Text of {0}.</p></body></html>"
    )
    return packed(
        {
            "META-INF/container.xml": "<c><rootfile full-path='O/b.opf'/></c>",
            "O/b.opf": "<package xmlns:dc='dc'><metadata><dc:title>My Book</dc:title>"
            "<dc:creator>Ann</dc:creator></metadata><manifest><item id='x' href='one%20a.html'/>"
            "<item id='y' href='two.html'/></manifest><spine><itemref idref='y'/>"
            "<itemref idref='x'/><itemref idref='gone'/></spine></package>",
            "O/one a.html": page.format("Last"),
            "O/two.html": page.format("First"),
            **extra,
        }
    )


def test_a_book_has_its_chapters_in_reading_order(tmp_path):
    found = one(tmp_path / "a.epub", book())
    assert titles(found) == ["First", "Last"]
    assert found.text.split() == "First Text of First. Last Text of Last.".split()
    assert (found.title, found.metadata) == ("My Book", {"author": "Ann"})
    assert found.warnings == ("1 chapters are missing",)


def test_rich_text(tmp_path):
    pytest.importorskip("striprtf")
    text = r"{\rtf1\ansi Gr\'fc\'dfe {\b bold} \u26085?\par next}"
    assert one(tmp_path / "a.rtf", text).text.split() == ["Grüße", "bold", "日", "next"]
    with pytest.raises(UnreadableFileError, match="not RTF"):
        parse(tmp_path / "b.rtf", "plain")


KINDS = ["a.docx", "a.pptx", "a.xlsx", "a.odt", "a.odp", "a.ods", "a.epub", "a.xls"]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"PK\x03\x04", b"\xd0\xcf\x11\xe0", packed({"a": "b"})],
    ids=["empty", "x", "cut", "ole", "zip"],
)
def test_what_is_no_document_is_unreadable(tmp_path, name, content):
    with pytest.raises(UnreadableFileError):
        parse(tmp_path / name, content)


@pytest.mark.parametrize("name", KINDS[:-1])
def test_no_entity_of_xml_is_looked_up(tmp_path, name):
    (tmp_path / "secret").write_text("secret")
    evil = f'<!DOCTYPE a [<!ENTITY e SYSTEM "file://{tmp_path}/secret">]><a><p>&e;</p></a>'
    parts = "word/document.xml ppt/presentation.xml xl/workbook.xml content.xml"
    content = packed(dict.fromkeys([*parts.split(), "META-INF/container.xml"], evil))
    try:
        found = parse(tmp_path / name, content)
    except UnreadableFileError:
        return
    assert not [item for item in found if "secret" in getattr(item, "text", "")]


def test_a_package_that_is_missing_is_a_skip_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    content = packed({"xl/workbook.xml": "<x/>"})
    with pytest.raises(MissingExtraError, match=r"pip install 'opengte\[search\]'"):
        parse(tmp_path / "a.xlsx", content)
    (found,) = parse(tmp_path / "a.zip", packed({os.path.join("d", "a.xlsx"): content}))
    assert isinstance(found, ParseProblem)
    assert (found.part, found.failed, found.retry) == ("d/a.xlsx", False, True)
