"""PDFs as Chromium prints them, and scans that Tesseract reads."""

import subprocess

import pytest

from opengte.search.parse.base import ParsedDocument, ParseLimits
from opengte.search.parse.process import ParserProcess
from tests.support.programs import program

pytestmark = pytest.mark.slow

PAGE = """<html lang="ar" dir="rtl"><meta charset="utf-8"><title>untitled</title>
<body style="font: 14pt DejaVu Sans"><h1>مرحبا بالعالم</h1>
<p>هذا نص عربي (بين قوسين) وأرقام مثل 12345 وكلمات مثل Linux kernel 6.1 في وسط الجملة.</p>
<p>שלום עולם, זהו טקסט בעברית (בסוגריים) עם מספר 2026 ומילה English באמצע.</p></body></html>"""


def read(path, **limits) -> ParsedDocument:
    with ParserProcess(ParseLimits(**limits)) as parser:
        (found,) = [
            one for one in parser.parse(str(path), "pdf") if isinstance(one, ParsedDocument)
        ]
    return found


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("printed")
    (folder / "page.html").write_text(PAGE, encoding="utf-8")
    chromium = program("chromium", "chromium-browser", "google-chrome")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    subprocess.run(
        [chromium, *options, "--print-to-pdf=page.pdf", "page.html"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder / "page.pdf"


def test_right_to_left_text_that_chromium_printed(printed):
    text = " ".join(read(printed).text.split())
    assert "مرحبا بالعالم" in text
    assert "وكلمات مثل Linux kernel 6.1 في وسط الجملة." in text
    assert "זהו טקסט בעברית (בסוגריים) עם מספר 2026 ומילה English באמצע." in text


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """A picture of text, as a PDF without any."""
    from PIL import Image, ImageDraw, ImageFont

    program("tesseract")
    pages = []
    for text in ("The lighthouse keeper wrote a letter", "Der Leuchtturm steht auf der Insel"):
        page = Image.new("L", (1654, 2339), 255)
        font = ImageFont.load_default(size=60)
        ImageDraw.Draw(page).text((150, 300), text, fill=0, font=font)
        pages.append(page)
    path = tmp_path_factory.mktemp("scanned") / "scan.pdf"
    pages[0].save(path, save_all=True, append_images=pages[1:], resolution=200)
    return path


def test_tesseract_reads_scans_within_the_limits_of_the_parser(scanned):
    found = read(scanned, ocr="eng+deu")
    assert "The lighthouse keeper wrote a letter" in found.text
    assert "Der Leuchtturm steht auf der Insel" in found.text
    assert found.metadata["ocr_pages"] == 2
    assert [section.title for section in found.sections] == ["page 1", "page 2"]
    assert found.warnings == ()


def test_pages_beyond_the_limit_are_named(scanned):
    found = read(scanned, ocr="eng", ocr_pages=1)
    (warning,) = found.warnings
    assert warning.startswith("1 of 2 pages (2) have no text")
