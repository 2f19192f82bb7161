"""PDF files of placed text, for tests: every character at a place of its own choosing."""

from collections.abc import Sequence

WIDTH, SIZE = 6.0, 10.0  # of a character, in points


def placed_pdf(
    *pages: Sequence[tuple[float, float, str]],
    info: dict[str, str] | None = None,
    catalog: str = "",
    page: str = "",
    extra: Sequence[str] = (),
) -> bytes:
    """Return a PDF; a page is text with the places where it begins, in the order of drawing.

    catalog and page are added to those dictionaries; extra are objects, of which the first has
    the number 5 + 2 * len(pages).
    """
    kids = " ".join(f"{5 + 2 * number} 0 R" for number in range(len(pages)))
    used = sorted({character for text in pages for _, _, one in text for character in one} - {" "})
    codes = {" ": 32} | {character: 33 + number for number, character in enumerate(used)}
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Courier /FirstChar 0 /LastChar 255 "
        f"/Widths [{'600 ' * 256}] /ToUnicode 4 0 R >>",
        _stream(_unicode(codes)),
    ]
    for number, text in enumerate(pages):
        shown = "\n".join(
            f"BT /F1 {SIZE} Tf 1 0 0 1 {x} {y} Tm <{bytes(codes[c] for c in one).hex()}> Tj ET"
            for x, y, one in text
        )
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            f"/Contents {6 + 2 * number} 0 R /Resources << /Font << /F1 3 0 R >> >> {page} >>"
        )
        objects.append(_stream(shown))
    objects += extra
    told = " ".join(
        f"/{key} <feff{value.encode('utf-16-be').hex()}>" for key, value in (info or {}).items()
    )
    objects.append(f"<< {told} >>")
    return assembled(objects, f"/Info {len(objects)} 0 R")


def _hex(text: str) -> str:
    return text.encode("utf-16-be").hex()


def _unicode(codes: dict[str, int]) -> str:
    """Return what says which character each code is; a shape may be another's."""
    pairs = "\n".join(f"<{code:02x}> <{_hex(character)}>" for character, code in codes.items())
    return (
        "/CIDInit /ProcSet findresource begin begincmap /CMapName /U def /CMapType 2 def\n"
        "1 begincodespacerange <00> <ff> endcodespacerange\n"
        f"{len(codes)} beginbfchar\n{pairs}\nendbfchar endcmap end"
    )


def _stream(content: str) -> str:
    return f"<< /Length {len(content)} >>\nstream\n{content}\nendstream"


def assembled(objects: Sequence[str], trailer: str = "") -> bytes:
    """Return a PDF of numbered objects; the first is the catalog."""
    body, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R "
    return body + f"{end}{trailer} >>\nstartxref\n{len(body)}\n%%EOF\n".encode()
