"""What people put into a PDF: the values of its form and the notes on its pages."""

import ctypes
from collections.abc import Iterator
from typing import Any

from opengte.search.parse.pdf.glyphs import TextBox

MOST = 5000  # annotations of a page that are read
HIDDEN = 2 | 32  # flags of an annotation that nobody sees
PASSWORD = 1 << 13  # flag of a text field


def annotation_pieces(page: Any, form: Any) -> list[TextBox]:
    """Return the filled fields and the notes of a page, each with its box; form may be None."""
    import pypdfium2.raw as pdfium

    found = []
    for number in range(min(pdfium.FPDFPage_GetAnnotCount(page.raw), MOST)):
        annotation = pdfium.FPDFPage_GetAnnot(page.raw, number)
        if not annotation:
            continue
        try:
            text = _text(annotation, form)
            box = pdfium.FS_RECTF()
            if text and pdfium.FPDFAnnot_GetRect(annotation, box):
                found.append(TextBox(text, box.left, box.bottom, box.right, box.top, 0))
        finally:
            pdfium.FPDFPage_CloseAnnot(annotation)
    return found


def _text(annotation: Any, form: Any) -> str:
    import pypdfium2.raw as pdfium

    kind = pdfium.FPDFAnnot_GetSubtype(annotation)
    if kind == pdfium.FPDF_ANNOT_LINK or pdfium.FPDFAnnot_GetFlags(annotation) & HIDDEN:
        return ""
    if kind == pdfium.FPDF_ANNOT_WIDGET:
        return _field(annotation, form) if form is not None else ""
    if kind == pdfium.FPDF_ANNOT_POPUP:  # repeats the note it belongs to
        return ""
    return _string(pdfium.FPDFAnnot_GetStringValue, annotation, b"Contents").strip()


def _field(annotation: Any, form: Any) -> str:
    import pypdfium2.raw as pdfium

    match pdfium.FPDFAnnot_GetFormFieldType(form.raw, annotation):
        case pdfium.FPDF_FORMFIELD_CHECKBOX | pdfium.FPDF_FORMFIELD_RADIOBUTTON:
            return "☒" if pdfium.FPDFAnnot_IsChecked(form.raw, annotation) else "☐"
        case pdfium.FPDF_FORMFIELD_COMBOBOX | pdfium.FPDF_FORMFIELD_LISTBOX:
            chosen = ", ".join(_chosen(annotation, form))
            if chosen:
                return chosen
        case pdfium.FPDF_FORMFIELD_TEXTFIELD:
            if pdfium.FPDFAnnot_GetFormFieldFlags(form.raw, annotation) & PASSWORD:
                return ""
        case _:
            return ""
    value = _string(pdfium.FPDFAnnot_GetFormFieldValue, form.raw, annotation)
    return "\n".join(value.split("\r")).strip()


def _chosen(annotation: Any, form: Any) -> Iterator[str]:
    import pypdfium2.raw as pdfium

    count = min(pdfium.FPDFAnnot_GetOptionCount(form.raw, annotation), MOST)
    for number in range(count):
        if pdfium.FPDFAnnot_IsOptionSelected(form.raw, annotation, number):
            place = form.raw, annotation, number
            yield _string(pdfium.FPDFAnnot_GetOptionLabel, *place).strip()


def _string(function: Any, *arguments: Any) -> str:
    """Return the string that a function of PDFium writes into a buffer."""
    import pypdfium2.raw as pdfium

    size = function(*arguments, None, 0)
    if size <= 2:
        return ""
    buffer = ctypes.create_string_buffer(size)
    function(*arguments, ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), size)
    return buffer.raw[: size - 2].decode("utf-16-le", "replace")


def with_annotations(words: list[TextBox], pieces: list[TextBox]) -> list[TextBox]:
    """Return the words of a page with each piece after the word it stands beside, or below."""
    placed = list(words)
    for piece in sorted(pieces, key=lambda one: (one.top, -one.left)):
        label = min(placed, key=lambda word: _distance(word, piece), default=None)
        if label is None:
            placed.append(piece)
            continue
        at = placed.index(label)
        before = piece.right <= label.left + 1 and _is_beside(piece, label)
        if not before:
            piece.ends_line = label.ends_line or not _is_beside(piece, label)
            label.ends_line = label.ends_line and not _is_beside(piece, label)
            at += 1
        placed.insert(at, piece)
    for number, word in enumerate(placed):
        word.index = number
    return placed


def _is_beside(one: TextBox, other: TextBox) -> bool:
    shared = min(one.top, other.top) - max(one.bottom, other.bottom)
    return shared > 0.3 * min(one.height, other.height)


def _distance(word: TextBox, piece: TextBox) -> float:
    """Return how far a word is from being the label of a field: left of it, right of it, above."""
    if _is_beside(word, piece):
        if word.right <= piece.left + word.height:
            return piece.left - word.right
        return 1.5 * abs(word.left - piece.right)
    above = word.bottom - piece.top
    return (300 + 3 * above if above > -1 else 1e4 - above) + 0.5 * abs(word.left - piece.left)
