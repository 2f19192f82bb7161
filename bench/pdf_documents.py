"""PDFs with the text that they should give, for bench/pdf_text.py: real ones, and made from text.

Real ones are manuals of Debian that come as PDF and as text. The others are made from sentences of
those manuals and of message catalogues (Arabic, Hebrew, Persian), by LaTeX, Chromium, LibreOffice
or a small writer that draws lines in an order of its own.
"""

import gettext
import gzip
import html
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.pdf_writer import placed_pdf

EACH = 6  # documents of each kind that is made
CATALOGUES = Path("/usr/share/locale")
CJK = re.compile("(ja|ko|zh)")


@dataclass(frozen=True)
class Sample:
    """A PDF and the text it should give; a manual has its contents and headers besides."""

    kind: str
    path: Path
    text: str


def manuals(folder: Path, made: Path) -> Iterator[Sample]:
    """Yield the manuals in a folder that are there both as PDF and as text."""
    for path in sorted([*folder.rglob("*.pdf"), *folder.rglob("*.pdf.gz")]):
        name = path.name.removesuffix(".gz").removesuffix(".pdf")
        texts = [path.with_name(f"{name}.txt{end}") for end in ("", ".gz")]
        text = next((one for one in texts if one.exists()), None)
        if text is None or path.stat().st_size < 50_000:
            continue
        plain = made / f"{path.parent.name}-{name}.pdf"
        plain.write_bytes(_content(path))
        kind = "manual, CJK" if CJK.search(path.parent.name + name[-6:]) else "manual, other"
        yield Sample(kind, plain, _content(text).decode("utf-8", "replace"))


def _content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def sentences(language: str, count: int, seed: int) -> list[str]:
    """Return messages of a language, without formats and tags."""
    found: set[str] = set()
    for path in sorted(CATALOGUES.glob(f"{language}/LC_MESSAGES/*.mo")):
        with path.open("rb") as file:
            catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        found |= {one for one in catalogue.values() if isinstance(one, str)}
    plain = [
        one
        for one in sorted(found)
        if 30 < len(one) < 160 and not re.search("[%<&{_\\\\\n~$#^]", one)
    ]
    return random.Random(seed).sample(plain, min(count, len(plain)))


def english(folder: Path, seed: int, count: int = 12) -> list[str]:
    """Return paragraphs of the English manuals."""
    text = "\n\n".join(_content(path).decode("utf-8", "replace") for path in _english_texts(folder))
    whole = (" ".join(one.split()) for one in re.split(r"\n\s*\n", text))
    plain = [
        one
        for one in whole
        if 200 < len(one) < 700 and re.fullmatch(r"[A-Z][\w\s.,;:()'’-]+\.", one)
    ]
    return random.Random(seed).sample(plain, count)


def _english_texts(folder: Path) -> list[Path]:
    return sorted(
        [
            *folder.rglob("install.en.txt.gz"),
            *folder.rglob("maint-guide.en.txt.gz"),
            *folder.rglob("policy.txt.gz"),
        ]
    )


def two_columns(folder: Path, made: Path) -> Iterator[Sample]:
    """Yield articles in two columns, by LaTeX, with words cut at the ends of lines."""
    for number in range(2 * EACH):
        paragraphs = english(folder, number, 24)
        body = "\n\n".join(one.replace("_", r"\_") for one in paragraphs)
        name = f"twocolumn-{number}"
        source = r"\documentclass[twocolumn]{article}\usepackage[T1]{fontenc}"
        source += r"\usepackage{lmodern}\pagestyle{empty}"
        (made / f"{name}.tex").write_text(
            source + f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
        )
        _run(made, made / f"{name}.pdf", "pdflatex", "-interaction=batchmode", f"{name}.tex")
        yield Sample("article, LaTeX", made / f"{name}.pdf", "\n".join(paragraphs))


def slides(folder: Path, made: Path) -> Iterator[Sample]:
    """Yield slides with two lists side by side, by beamer."""
    for number in range(EACH):
        words = [one.split(".")[0] for one in english(folder, 100 + number, 12)]
        frames, text = [], []
        for at in range(0, 12, 4):
            title, points = (
                f"Part {at // 4 + 1} of the lecture",
                [" ".join(one.split()[:9]) for one in words[at : at + 4]],
            )
            columns = [
                r"\begin{itemize}" + "".join(rf"\item {one}" for one in side) + r"\end{itemize}"
                for side in (points[:2], points[2:])
            ]
            both = "".join(rf"\column{{.48\textwidth}}{one}" for one in columns)
            frames.append(
                rf"\begin{{frame}}\frametitle{{{title}}}\begin{{columns}}[t]{both}\end{{columns}}\end{{frame}}"
            )
            text += [title, *points]
        source = r"\documentclass{beamer}\setbeamertemplate{navigation symbols}{}"
        source += r"\setbeamertemplate{itemize item}{}"
        name = f"slides-{number}"
        (made / f"{name}.tex").write_text(
            source + r"\begin{document}" + "\n".join(frames) + r"\end{document}"
        )
        _run(made, made / f"{name}.pdf", "pdflatex", "-interaction=batchmode", f"{name}.tex")
        yield Sample("slides, LaTeX", made / f"{name}.pdf", "\n".join(text))


def web_pages(folder: Path, made: Path) -> Iterator[Sample]:
    """Yield right-to-left texts and tables, printed by Chromium and by LibreOffice."""
    for language, font in (
        ("ar", "DejaVu Sans"),
        ("ar", "Amiri"),
        ("he", "David CLM"),
        ("he", "DejaVu Sans"),
        ("fa", "DejaVu Sans"),
    ):
        for number in range(2):
            lines = sentences(language, 40, number)
            body = "".join(f"<p>{html.escape(one)}</p>" for one in lines)
            page = f'<html dir="rtl" lang="{language}"><meta charset="utf-8">'
            page += f'<body style="font-family:{font}">{body}'
            name = f"{language}-{font.split()[0]}-{number}"
            kind = "Hebrew" if language == "he" else "Arabic, Persian"
            yield Sample(f"{kind}, Chromium", _printed(made, name, page), "\n".join(lines))
            if number == 0:
                yield Sample(f"{kind}, LibreOffice", _written(made, name), "\n".join(lines))
    for number in range(EACH):
        rows = [
            [f"{one.split()[0]} {number + at}", f"{at * 13.5:.2f}", " ".join(one.split()[:4])]
            for at, one in enumerate(english(folder, 200 + number, 12))
        ]
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows
        )
        page = f'<meta charset="utf-8"><table border=1 cellpadding=6>{cells}</table>'
        yield Sample(
            "table, Chromium",
            _printed(made, f"table-{number}", page),
            "\n".join(" ".join(row) for row in rows),
        )


def _printed(made: Path, name: str, page: str) -> Path:
    (made / f"{name}.html").write_text(page, encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer")
    _run(
        made,
        made / f"{name}.pdf",
        "chromium",
        *options,
        f"--print-to-pdf={name}.pdf",
        f"{name}.html",
    )
    return made / f"{name}.pdf"


def _written(made: Path, name: str) -> Path:
    out = made / "libreoffice"
    _run(
        made,
        out / f"{name}.pdf",
        "soffice",
        "--headless",
        "--convert-to",
        "pdf:writer_web_pdf_Export",
        "--outdir",
        str(out),
        f"{name}.html",
    )
    return out / f"{name}.pdf"


def drawn(folder: Path, made: Path) -> Iterator[Sample]:
    """Yield columns drawn row by row, lines drawn at random, tables by column, and filled forms."""
    for number in range(EACH):
        paragraphs = english(folder, 300 + number, 10)
        sides = [_wrapped(" ".join(half), 38)[:48] for half in (paragraphs[:5], paragraphs[5:])]
        both = [
            [(40.0 + 290 * x, 740.0 - 14 * y, line) for y, line in enumerate(side)]
            for x, side in enumerate(sides)
        ]
        text = "\n".join(line for side in sides for line in side)
        rows = [one for y in range(48) for side in both for one in side[y : y + 1]]
        mixed = random.Random(number).sample(rows, len(rows))
        table = [
            [f"Item {y}", f"{y * 7.25:.2f}", paragraphs[x % 10].split()[x]]
            for y, x in enumerate(range(10))
        ]
        cells = [
            [(50.0 + 160 * x, 740.0 - 20 * y, cell) for x, cell in enumerate(row)]
            for y, row in enumerate(table)
        ]
        columns = [cell for column in zip(*cells, strict=True) for cell in column]
        labels = [
            f"Question {at}: {' '.join(one.split()[:3])}" for at, one in enumerate(paragraphs)
        ]
        values = [" ".join(one.split()[-4:]) for one in paragraphs]
        answers = "\n".join(f"{a} {b}" for a, b in zip(labels, values, strict=True))
        for kind, content, right in (
            ("columns drawn by row", placed_pdf(rows), text),
            ("lines in any order", placed_pdf(mixed), text),
            (
                "table drawn by column",
                placed_pdf(columns),
                "\n".join(" ".join(row) for row in table),
            ),
            ("form", _form(labels, values), answers),
        ):
            path = made / f"{kind.replace(' ', '-')}-{number}.pdf"
            path.write_bytes(content)
            yield Sample(kind, path, right)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _form(labels: list[str], values: list[str]) -> bytes:
    numbers = " ".join(f"{7 + at} 0 R" for at in range(len(values)))
    fields = [
        f"<< /Type /Annot /Subtype /Widget /FT /Tx /T (f{at}) /V ({value}) "
        f"/Rect [350 {735 - 40 * at} 560 {755 - 40 * at}] /F 4 >>"
        for at, value in enumerate(values)
    ]
    page = [(40.0, 740.0 - 40 * at, label) for at, label in enumerate(labels)]
    return placed_pdf(
        page,
        catalog=f"/AcroForm << /Fields [{numbers}] >>",
        page=f"/Annots [{numbers}]",
        extra=fields,
    )


def scans(samples: list[Sample], made: Path) -> Iterator[Sample]:
    """Yield pictures of the pages of articles."""
    import pypdfium2

    for sample in samples[:4]:
        path = made / f"scan-{sample.path.name}"
        with pypdfium2.PdfDocument(sample.path) as document:
            pictures = [page.render(scale=200 / 72, grayscale=True).to_pil() for page in document]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], resolution=200)
        yield Sample("scan", path, sample.text)


def _run(folder: Path, result: Path, *command: str) -> None:
    """Run a program that makes a file, unless an earlier run did."""
    if result.exists():
        return
    subprocess.run(command, cwd=folder, capture_output=True, timeout=180, check=False)
