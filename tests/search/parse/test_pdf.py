"""PDF files: the order of text, forms, right-to-left scripts, hyphens, dates, titles, scans."""

import random

import pytest
from bidi import get_display
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from opengte.search.parse.base import ParseLimits
from opengte.search.parse.pdf import ocr
from opengte.search.parse.pdf.glyphs import RTL
from opengte.search.parse.pdf.hyphens import join_cut_words
from opengte.search.parse.pdf.metadata import iso_date, judged_title
from tests.search.parse.test_formats import one
from tests.support.pdf_writer import WIDTH, placed_pdf

GLACIER = [
    "The glacier moved slowly",
    "down the valley and",
    "carved a deep basin",
    "that later held a lake.",
]
BAKERS = [
    "Bakers knead the dough",
    "for ten minutes until",
    "it becomes elastic and",
    "pulls from the bowl.",
]
ROWS = [
    ["Article", "Size", "Price"],
    ["Hammer", "large", "12.50"],
    ["Saw", "small", "9.90"],
    ["Drill", "medium", "99.00"],
]


def text_of(tmp_path, *pages, **options) -> str:
    path, limits = tmp_path / "a.pdf", ParseLimits(ocr="off")
    return " ".join(one(path, placed_pdf(*pages, **options), limits=limits).text.split())


def lines(texts, x, y=700.0, pitch=14.0):
    return [(x, y - pitch * number, text) for number, text in enumerate(texts)]


def alternating(*columns):
    return [one for row in zip(*columns, strict=True) for one in row]


def test_columns_that_were_drawn_row_by_row(tmp_path):
    columns = lines(GLACIER, 50), lines(BAKERS, 320)
    assert text_of(tmp_path, alternating(*columns)) == " ".join(GLACIER + BAKERS)


def test_columns_that_were_drawn_one_by_one(tmp_path):
    columns = lines(GLACIER, 50), lines(BAKERS, 320)
    assert text_of(tmp_path, columns[0] + columns[1]) == " ".join(GLACIER + BAKERS)


def test_three_columns_below_a_title_and_above_a_foot(tmp_path):
    columns = alternating(lines(GLACIER, 30), lines(BAKERS, 230), lines(GLACIER[::-1], 430))
    page = [
        (30, 760, "A title that goes across all the columns of this page, from left to right"),
        *columns,
    ]
    page += [(30, 600, "And a line below them that goes from the left side to the right side, too")]
    expected = [page[0][2], *GLACIER, *BAKERS, *GLACIER[::-1], page[-1][2]]
    assert text_of(tmp_path, page) == " ".join(expected)


@pytest.mark.parametrize("seed", range(5))
def test_lines_that_were_drawn_in_any_order(tmp_path, seed):
    page = [(50.0, 760.0, "On glaciers and on bread, in two columns that were drawn at random")]
    page += lines(GLACIER, 50) + lines(BAKERS, 320)
    expected = " ".join(text for _, _, text in page)
    random.Random(seed).shuffle(page)
    assert text_of(tmp_path, page) == expected


@pytest.mark.parametrize("order", ["rows", "columns", "random"])
def test_the_rows_of_a_table(tmp_path, order):
    cells = [
        [(50.0 + 150 * x, 700.0 - 16 * y, cell) for x, cell in enumerate(row)]
        for y, row in enumerate(ROWS)
    ]
    drawn = [cell for row in cells for cell in row]
    if order == "columns":
        drawn = [cell for column in zip(*cells, strict=True) for cell in column]
    elif order == "random":
        random.Random(3).shuffle(drawn)
    found = one(tmp_path / "a.pdf", placed_pdf(drawn)).text
    assert [line.split() for line in found.strip().splitlines()] == ROWS


def test_a_page_that_lies_on_its_side(tmp_path):
    page = lines(["A rotated page about windmills", "with two lines of text"], 100)
    assert (
        text_of(tmp_path, page, page="/Rotate 90")
        == "A rotated page about windmills with two lines of text"
    )


def test_formulas_stay_where_they_were_drawn(tmp_path):
    page = [
        (50, 700, "where the sum"),
        (135, 709, "n"),
        (135, 691, "i=1"),
        (150, 700, "of all is one"),
    ]
    assert text_of(tmp_path, page) == "where the sum n i=1 of all is one"


# --- forms


def field(kind: str, box: str, more: str) -> str:
    return f"<< /Type /Annot /Subtype /Widget /FT /{kind} /Rect [{box}] /F 4 {more} >>"


def form(tmp_path, page, *fields):
    numbers = " ".join(f"{7 + number} 0 R" for number in range(len(fields)))
    return text_of(
        tmp_path,
        page,
        catalog=f"/AcroForm << /Fields [{numbers}] >>",
        page=f"/Annots [{numbers}]",
        extra=fields,
    )


def test_the_values_of_a_form_stand_beside_their_names(tmp_path):
    page = [
        (50, 760, "Surname:"),
        (50, 700, "Reason:"),
        (50, 640, "Country:"),
        (90, 600, "Married"),
        (190, 600, "Single"),
    ]
    found = form(
        tmp_path,
        page,
        field("Tx", "150 690 400 712", "/T (reason) /V (Relocation to Reykjavik)"),
        field("Tx", "150 750 400 772", "/T (surname) /V (Wintergreen)"),
        field(
            "Ch",
            "150 630 400 652",
            "/Ff 131072 /T (country) /V (is) /Opt [[(de) (Germany)] [(is) (Iceland)]]",
        ),
        field(
            "Btn",
            "70 598 82 612",
            "/T (m) /V /Yes /AS /Yes /AP << /N << /Yes 6 0 R /Off 6 0 R >> >>",
        ),
        field(
            "Btn",
            "170 598 182 612",
            "/T (s) /V /Off /AS /Off /AP << /N << /Yes 6 0 R /Off 6 0 R >> >>",
        ),
        field("Tx", "50 500 400 520", "/Ff 8192 /T (password) /V (hunter2)"),
        field("Tx", "50 400 400 420", "/T (hidden) /F 2 /V (unseen)").replace("/F 4", ""),
    )
    assert found == (
        "Surname: Wintergreen Reason: Relocation to Reykjavik Country: Iceland ☒ Married ☐ Single"
    )


def test_notes_on_a_page_are_read(tmp_path):
    note = (
        "<< /Type /Annot /Subtype /FreeText /Rect [50 600 300 620] /Contents (Check the brakes) >>"
    )
    found = text_of(
        tmp_path, [(50, 700, "How to drive a lorry")], page="/Annots [7 0 R]", extra=[note]
    )
    assert found == "How to drive a lorry Check the brakes"


# --- right-to-left scripts; python-bidi tells where a reader sees each character


def drawn_right_to_left(text: str, y: float = 700.0, start: float = 60.0):
    """Place a line as a reader sees it, character by character, from the left."""
    visual = get_display(text, base_dir="R" if is_rtl(text) else "L")
    return [
        (start + WIDTH * n, y, character) for n, character in enumerate(visual) if character != " "
    ]


def is_rtl(text: str) -> bool:
    return sum("\u0590" <= c <= "\u06ff" for c in text) > sum(
        c.isascii() and c.isalpha() for c in text
    )


RIGHT_TO_LEFT = [
    "مرحبا بالعالم",
    "שלום עולם",
    "זהו טקסט בעברית (בסוגריים) עם מספר 2026 ומילה English באמצע",
    "هذا نص عربي (بين قوسين) وأرقام مثل 12345 و 3.14 وكلمات مثل Linux kernel 6.1 في الجملة",
    "An English line with שלום עולם and مرحبا بك inside",
    "המחיר הוא 50% פחות",
]


@pytest.mark.parametrize("text", RIGHT_TO_LEFT)
@pytest.mark.parametrize("order", ["left", "right", "random"])
def test_right_to_left_lines_are_read_as_they_were_written(tmp_path, text, order):
    glyphs = drawn_right_to_left(text)
    if order == "right":
        glyphs.reverse()
    elif order == "random":
        random.Random(1).shuffle(glyphs)
    assert text_of(tmp_path, glyphs) == text


WORDS = st.sampled_from("שלום בית ספר مرحبا كتاب Linux kernel 12 2026 3.14 אחת اثنان".split())


@settings(max_examples=60, deadline=None)
@given(words=st.lists(WORDS, min_size=2, max_size=8))
def test_any_line_of_both_directions_is_shown_as_it_was(tmp_path_factory, words):
    """What is read looks the same as what was drawn; several texts may look the same."""
    text = " ".join(words)
    assume(RTL.search(text))
    found = text_of(tmp_path_factory.mktemp("rtl"), drawn_right_to_left(text))
    base = "R" if is_rtl(text) else "L"
    assert get_display(found, base_dir=base) == get_display(text, base_dir=base)


def test_shapes_of_arabic_letters_become_letters(tmp_path):
    shapes = "\ufee2\ufedf\ufe8e\ufecc\ufedf\ufe8d" * 2  # as they stand, from the left
    glyphs = [(60 + WIDTH * n, 700, shape) for n, shape in enumerate(shapes)]
    assert text_of(tmp_path, glyphs) == "العالمالعالم"


def test_columns_of_a_right_to_left_page_begin_at_the_right(tmp_path):
    texts = ["שלום עולם טוב", "ילד קטן הלך", "ספר ישן כאן", "גשם ירד היום"]
    page = []
    for number, text in enumerate(texts[:2]):
        page += drawn_right_to_left(text, 700 - 16 * number, 320)
    for number, text in enumerate(texts[2:]):
        page += drawn_right_to_left(text, 700 - 16 * number, 60)
    found = one(tmp_path / "a.pdf", placed_pdf(page)).text.split("\n")
    assert [line.split("\t") for line in found if line] in (
        [[texts[0], texts[2]], [texts[1], texts[3]]],
        [[text] for text in texts],
    )


# --- hyphens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the configu-\nration of it", "the configuration of it"),
        ("the electro\ufffemagnetic brake is on", "the electromagnetic brake is on"),
        ("A well-\nknown way to the sea", "A well-known way to the sea"),
        (
            "a state-of-the-\nart device is for the user",
            "a state-of-the-art device is for the user",
        ),
        ("from 2020-\n2021", "from 2020-2021"),
        ("the Anglo-\nSaxon king", "the Anglo-Saxon king"),
        (
            "the user and a co\u00ad\noperation of soft hyphens",
            "the user and a cooperation of soft hyphens",
        ),
        ("zymo-\nplast is here; a zymoplast", "zymoplast is here; a zymoplast"),
        ("blue-\ngreen; the paint is blue-green", "blue-green; the paint is blue-green"),
        ("Der Donau-\ndampfer ist nicht das und die", "Der Donaudampfer ist nicht das und die"),
        ("C'est peut-\nêtre pour les gens des villes", "C'est peut-être pour les gens des villes"),
        (
            "le gouver-\nnement est pour les gens des villes",
            "le gouvernement est pour les gens des villes",
        ),
        ("a list:\n- one\n- two", "a list:\n- one\n- two"),
        ("a dash -\nthen more", "a dash -\nthen more"),
    ],
)
def test_words_that_were_cut(text, expected):
    assert join_cut_words(text) == expected


def test_words_that_were_cut_in_a_file(tmp_path):
    page = lines(
        [
            "This manual describes the configu-",
            "ration of the electro-",
            "magnetic brake. A well-",
            "known state-of-the-",
            "art device. Dates 2020-",
            "2021.",
        ],
        50,
    )
    assert text_of(tmp_path, page) == (
        "This manual describes the configuration of the electromagnetic brake. "
        "A well-known state-of-the-art device. Dates 2020-2021."
    )


# --- what a file says of itself


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("D:20260314092653+01'00'", "2026-03-14T09:26:53+01:00"),
        ("D:20260314092653-05'30", "2026-03-14T09:26:53-05:30"),
        ("D:20260314092653Z00'00'", "2026-03-14T09:26:53+00:00"),
        ("D:20260314092653", "2026-03-14T09:26:53"),
        ("D:202603140926", "2026-03-14T09:26:00"),
        ("D:20260314", "2026-03-14"),
        ("D:2026", "2026-01-01"),
        ("20260314092653", "2026-03-14T09:26:53"),
        ("2026-03-14T09:26:53.123Z", "2026-03-14T09:26:53+00:00"),
        ("Sat Mar 14 09:26:53 2026", "2026-03-14T09:26:53"),
        ("Sat, 14 Mar 2026 09:26:53 +0100", "2026-03-14T09:26:53+01:00"),
        ("D:20261340", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_dates(written, expected):
    assert iso_date(written) == expected


def test_a_filter_on_the_date_of_a_file(tmp_path):
    told = one(
        tmp_path / "a.pdf",
        placed_pdf(
            [(50, 700, "Some text here")],
            info={"CreationDate": "D:20260314092653Z", "ModDate": "soon"},
        ),
    ).metadata
    assert "2026-01-01" <= told["created"] < "2030-01-01"
    assert told["modified_as_written"] == "soon"


@pytest.mark.parametrize(
    "junk",
    [
        "untitled",
        "(anonymous)",
        "Untitled-1",
        "Microsoft Word - report_v2.doc",
        "slides.dvi",
        "Document1",
        "PowerPoint Presentation",
        "C:\\work\\x.indd",
        "https://example.org/a",
        "Microsoft Word - Document1",
        "123",
        "(null)",
        "",
        "Slide 1",
        "5f3a9c1e-77aa-4b6e-9d2c-0a1b2c3d4e5f",
        "无标题",
        "No Job Name",
        "\ufffd\ufffda",
    ],
)
def test_titles_that_programs_give_are_none(junk):
    assert judged_title(junk) == ""


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Price list", "Price list"),
        ("Microsoft Word - Annual report 2025", "Annual report 2025"),
        ("Untitled works of the 17th century", "Untitled works of the 17th century"),
        ("Document management in hospitals", "Document management in hospitals"),
        ("年次報告書", "年次報告書"),
    ],
)
def test_titles_of_documents_are_kept(title, expected):
    assert judged_title(title) == expected


# --- scans; Tesseract itself is tested in tests/system

PICTURE = "q 200 0 0 200 100 100 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x80 EI Q"


def scan(tmp_path, pages=2, **limits):
    content = placed_pdf([(50, 700, "A page with text")], *[[] for _ in range(pages)])
    content = content.replace(
        b"/Length 0 >>\nstream\n\n",
        f"/Length {len(PICTURE)} >>\nstream\n{PICTURE}\n".encode("latin-1"),
    )
    return one_document(tmp_path / "a.pdf", content, ParseLimits(**limits))


def one_document(path, content, limits):
    from opengte.search.parse.base import ParsedDocument
    from tests.search.parse.test_formats import parse

    (found,) = [
        item for item in parse(path, content, limits=limits) if isinstance(item, ParsedDocument)
    ]
    return found


def test_pages_that_ocr_does_not_read_are_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(ocr, "installed_languages", lambda: ())
    what = "2 of 3 pages (2, 3) have no text, and OCR did not read them: "
    assert scan(tmp_path).warnings == (what + "Tesseract, which reads scans, is not installed",)
    assert scan(tmp_path, ocr="off").warnings == (what + "OCR is off",)
    monkeypatch.setattr(ocr, "installed_languages", lambda: ("eng",))
    assert scan(tmp_path, ocr="xyz").warnings == (what + "Tesseract has no data for `xyz`",)


def test_blank_pages_are_no_scans(tmp_path):
    found = one(tmp_path / "a.pdf", placed_pdf([(50, 700, "A page with text")], []))
    assert found.warnings == ()
    assert found.metadata["pages"] == 2


def test_ocr_is_bounded_in_pages_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(ocr, "installed_languages", lambda: ("eng", "osd"))
    monkeypatch.setattr(ocr, "page_to_text", lambda page, languages, seconds: "read by OCR")
    found = scan(tmp_path, pages=4, ocr_pages=2)
    assert found.text.count("read by OCR") == 2
    assert found.metadata["ocr_pages"] == 2
    assert found.metadata["ocr_languages"] == "eng"
    (warning,) = found.warnings
    assert warning.startswith("2 of 5 pages (4, 5) have no text")
    assert "OCR of one file ends" in scan(tmp_path, ocr_seconds=0.0).warnings[0]


def test_languages_of_ocr(monkeypatch):
    monkeypatch.setattr(ocr, "installed_languages", lambda: ("deu", "eng", "osd"))
    assert ocr.chosen_languages("auto", "de-AT") == ("deu",)
    assert ocr.chosen_languages("auto", "") == ("deu", "eng")
    assert ocr.chosen_languages("eng+deu", "fr") == ("eng", "deu")
    assert ocr.missing_languages("eng+xyz") == ["xyz"]
    monkeypatch.setattr(ocr, "installed_languages", lambda: ("afr", "deu", "eng", "fra", "osd"))
    assert ocr.chosen_languages("auto", "") == ("eng",)
