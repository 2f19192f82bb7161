"""Arabic, Hebrew and their kin: from where characters stand in a line to the order they are read.

PDFium turns words around by its own reading of the order in which they were drawn, and is often
wrong. Places are certain: a line is read off its characters from left to right, and the
bidirectional algorithm (Unicode Annex 9) is applied backwards.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opengte.search.parse.pdf.glyphs import RTL, Box, Characters, TextBox

LINE = re.compile("[^\r\n\ufffe\u0002]+[\ufffe\u0002]?")
GUTTER = 0.9  # of the height of a line: a wider gap is a space between columns
SPACE = 0.3  # of the width of a character: a wider gap is a space
KINDS = {"R": "R", "AL": "R", "L": "L", "EN": "N", "AN": "N", "ET": "%"}
BRACKETS = ("()", "[]", "{}", "<>", "«»", "‹›")
LAM, ALEFS = "ل", "اأإآٱ"


@dataclass(slots=True)
class _Glyph:
    text: str  # a base character and its marks
    box: Box
    origin: float  # the left end, with what is blank there
    kind: str  # "R", "L", "N" for a digit, "%" for its sign, "" for what goes with its neighbours

    @property
    def is_left_to_right(self) -> bool:
        return self.kind in ("L", "N")

    @property
    def centre(self) -> float:
        return (self.box[0] + self.box[2]) / 2


def words_in_logical_order(characters: Characters) -> list[TextBox]:
    """Return the words of a page; lines with right-to-left characters are read from places."""
    if not RTL.search(characters.text):
        return characters.words()
    pieces: list[TextBox] = []
    for spans, glyphs in _lines(characters):
        if any(one.kind == "R" for one in glyphs):
            pieces += _in_one_line(glyphs)
        else:
            for start, end in spans:
                pieces += characters.words(start, end)
    for number, piece in enumerate(pieces):
        piece.index = number
    return pieces


def _lines(characters: Characters) -> list[tuple[list[tuple[int, int]], list[_Glyph]]]:
    """Return the spans and glyphs of lines; PDFium parts those that are drawn in pieces."""
    lines: list[tuple[list[tuple[int, int]], list[_Glyph]]] = []
    for match in LINE.finditer(characters.text):
        glyphs = _glyphs(characters, *match.span())
        if lines and glyphs and _are_level(lines[-1][1], glyphs):
            lines[-1][0].append(match.span())
            lines[-1][1].extend(glyphs)
        elif glyphs:
            lines.append(([match.span()], glyphs))
    return lines


def _are_level(one: Sequence[_Glyph], other: Sequence[_Glyph]) -> bool:
    """Return whether two parts stand in the same line."""
    bottom, top = min(glyph.box[1] for glyph in one), max(glyph.box[3] for glyph in one)
    low, high = min(glyph.box[1] for glyph in other), max(glyph.box[3] for glyph in other)
    return min(top, high) - max(bottom, low) > 0.7 * min(top - bottom, high - low)


def _in_one_line(glyphs: Sequence[_Glyph]) -> list[TextBox]:
    """Return what stands in one line in the order it is read; a wide space parts it."""
    glyphs = sorted(glyphs, key=lambda one: one.centre)
    parts: list[list[_Glyph]] = []
    edge, height = 0.0, max(one.box[3] - one.box[1] for one in glyphs)
    for one in glyphs:
        if not parts or one.box[0] - edge > GUTTER * height:
            parts.append([])
        parts[-1].append(one)
        edge = max(edge, one.box[2])
    if _is_rtl(glyphs):
        parts.reverse()
    pieces = [_piece(part) for part in parts]
    pieces[-1].ends_line = True
    return pieces


def _is_rtl(glyphs: Sequence[_Glyph]) -> bool:
    return sum((one.kind == "R") - (one.kind == "L") for one in glyphs) > 0


def _piece(glyphs: Sequence[_Glyph]) -> TextBox:
    text = "".join(one.text for one in _logical(_spaced(glyphs), rtl=_is_rtl(glyphs)))
    left, bottom, right, top = zip(*(one.box for one in glyphs), strict=True)
    text = _with_brackets(unicodedata.normalize("NFKC", text))
    return TextBox(text, min(left), min(bottom), max(right), max(top), 0)


def _with_brackets(text: str) -> str:
    """Turn brackets to what they enclose; in this direction, PDFium mirrors some and others not."""
    turned = list(text)
    for pair in BRACKETS:
        opened = 0
        for place, one in enumerate(text):
            if one in pair:
                before, after = text[:place].rstrip(pair)[-1:], text[place + 1 :].lstrip(pair)[:1]
                starts, ends = not before.strip(), not after.strip() or after in ".,:;!?،؛؟"
                opens = starts if starts != ends else not opened
                opened += 1 if opens else -1
                turned[place] = pair[not opens]
    return "".join(turned)


def _glyphs(characters: Characters, start: int, end: int) -> list[_Glyph]:
    """Return the glyphs of a span, marks with the characters they belong to."""
    bases: list[_Glyph] = []
    marks: list[tuple[str, float]] = []
    for number in range(start, end):
        one = characters.text[number]
        if one.isspace() or one in "\ufffe\u0002" or unicodedata.category(one) == "Cf":
            continue
        box, origin = characters.box(number), characters.origin(number)
        if unicodedata.combining(one):
            marks.append((one, (box[0] + box[2]) / 2))
        elif bases and bases[-1].origin == origin:  # a ligature, which PDFium cuts into equal parts
            joined, other = bases[-1].text + one, bases[-1].box
            bases[-1].text = LAM + joined[0] if one == LAM and joined[0] in ALEFS else joined
            bases[-1].box = (min(other[0], box[0]), box[1], max(other[2], box[2]), box[3])
        else:
            bases.append(_Glyph(one, box, origin, KINDS.get(unicodedata.bidirectional(one), "")))
    for mark, place in marks if bases else ():
        nearest = min(bases, key=lambda one: max(one.box[0] - place, place - one.box[2], 0))
        nearest.text += mark
    return bases


def _spaced(glyphs: Sequence[_Glyph]) -> list[_Glyph]:
    """Return glyphs with a space where there is a gap."""
    widths = sorted(one.box[2] - one.box[0] for one in glyphs)
    spaced: list[_Glyph] = []
    edge = float("inf")
    for one in glyphs:
        if min(one.origin, one.box[0]) - edge > SPACE * widths[len(widths) // 2]:
            spaced.append(_Glyph(" ", one.box, one.origin, ""))
        spaced.append(one)
        edge = one.box[2] if edge == float("inf") else max(edge, one.box[2])
    return spaced


def _logical(glyphs: Sequence[_Glyph], *, rtl: bool) -> Iterator[_Glyph]:
    """Yield the glyphs that stand from left to right in a line in the order they are read."""
    runs: list[list[_Glyph]] = []
    at = 0
    while at < len(glyphs):
        length = _left_to_right(glyphs, at) if rtl else _right_to_left(glyphs, at)
        runs.append(list(glyphs[at : at + max(length, 1)]))
        at += max(length, 1)
    for run in reversed(runs) if rtl else runs:
        if not rtl and any(one.kind == "R" for one in run):
            yield from _logical(run, rtl=True)
        else:
            yield from run


def _left_to_right(glyphs: Sequence[_Glyph], start: int) -> int:
    """Return the length of a run of words or numbers that is read from left to right.

    Words go on across spaces, and so do numbers after words; numbers among themselves do not.
    """
    arabic = any(one.kind == "R" and one.text[0] > "\u05ff" for one in glyphs)
    first = glyphs[start]
    at = start + 1 if first.kind == "%" and not arabic else start
    if at == len(glyphs) or not glyphs[at].is_left_to_right:
        return 0
    end, letters, gap = at + 1, glyphs[at].kind == "L", False
    for number in range(at + 1, len(glyphs)):
        one = glyphs[number]
        if one.kind == "R" or (gap and not letters and one.is_left_to_right):
            break
        gap = gap or one.text == " "
        if one.is_left_to_right or (one.kind == "%" and number == end and not arabic):
            end, gap, letters = number + 1, False, letters or one.kind == "L"
    return end - start


def _right_to_left(glyphs: Sequence[_Glyph], start: int) -> int:
    """Return the length of a run that is read from right to left."""
    if glyphs[start].kind != "R":
        return 0
    end = start + 1
    for number in range(start + 1, len(glyphs)):
        if glyphs[number].kind == "L":
            break
        if glyphs[number].kind == "R":
            end = number + 1
    return end - start
