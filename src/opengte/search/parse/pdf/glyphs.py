"""Where the text of a page stands: the boxes of its runs and words, read from PDFium in bulk."""

import ctypes
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

Box = tuple[float, float, float, float]  # left, bottom, right, top
RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff]")
WORD = re.compile("[^\\s\ufffe\u0002]+[\ufffe\u0002]?")
UPRIGHT, UP, DOWN = 0, 1, -1  # directions in which words are set


@dataclass(slots=True)
class TextBox:
    """Some text in one line, its box, and its place in the order in which it was drawn."""

    text: str
    left: float
    bottom: float
    right: float
    top: float
    index: int
    turned: int = UPRIGHT
    ends_line: bool = False  # in PDFium's reading

    @property
    def height(self) -> float:
        """Return the height of the box, never zero."""
        return max(self.top - self.bottom, 0.5)


@cache
def _functions() -> tuple[Any, Any, Any]:
    """Return PDFium's functions for boxes, called without the detours of ctypes' conversions.

    A page has thousands of characters; these calls take half the time of the declared ones.
    """
    import pypdfium2.raw as pdfium

    pointer, number = ctypes.c_void_p, ctypes.c_int

    def plain(function: Any, *arguments: Any) -> Any:
        address = ctypes.cast(function, pointer).value or 0
        return ctypes.PYFUNCTYPE(number, *arguments)(address)

    return (
        plain(pdfium.FPDFText_GetRect, pointer, number, pointer, pointer, pointer, pointer),
        plain(pdfium.FPDFText_GetLooseCharBox, pointer, number, pointer),
        plain(pdfium.FPDFText_GetUnicode, pointer, number),
    )


def run_boxes(textpage: Any) -> list[Box]:
    """Return the boxes of the runs of text on a page, in the order in which they are drawn."""
    import pypdfium2.raw as pdfium

    read = _functions()[0]
    count = max(pdfium.FPDFText_CountRects(textpage.raw, 0, -1), 0)
    handle = ctypes.cast(textpage.raw, ctypes.c_void_p).value
    values = (ctypes.c_double * (4 * count))()
    place = ctypes.addressof(values)
    for number in range(count):  # PDFium's order of results is left, top, right, bottom
        read(handle, number, place, place + 24, place + 16, place + 8)
        place += 32
    flat = values[:]
    return list(zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True))


class Characters:
    """The characters of a page, as PDFium numbers them, and their boxes."""

    def __init__(self, textpage: Any, text: str) -> None:
        import pypdfium2.raw as pdfium

        self._handle = ctypes.cast(textpage.raw, ctypes.c_void_p).value
        self._page = textpage.raw
        self._box, code = _functions()[1:]
        count = pdfium.FPDFText_CountChars(textpage.raw)
        if len(text) != count:  # PDFium's text leaves out what is no character
            codes = (code(self._handle, number) for number in range(count))
            text = "".join(chr(one) if 0 < one < 0x110000 else " " for one in codes)
        self.text = text
        self._values = (ctypes.c_float * 4)()
        self._place = ctypes.addressof(self._values)

    def box(self, number: int) -> Box:
        """Return the box of a character: the room it takes in its line."""
        self._box(self._handle, number, self._place)
        left, top, right, bottom = self._values
        return left, bottom, right, top

    def origin(self, number: int) -> float:
        """Return the horizontal place from which a character is drawn."""
        import pypdfium2.raw as pdfium

        across, up = ctypes.c_double(), ctypes.c_double()
        pdfium.FPDFText_GetCharOrigin(self._page, number, across, up)
        return across.value

    def words(self, start: int = 0, end: int | None = None) -> list[TextBox]:
        """Return the words between two characters, in the order of the text."""
        pieces: list[TextBox] = []
        for match in WORD.finditer(self.text, start, len(self.text) if end is None else end):
            at, after = match.span()
            cut = match[0][-1] in "\ufffe\u0002"
            one, last = self.box(at), self.box(max(after - 1 - cut, at))
            left, bottom = map(min, one[:2], last[:2])
            right, top = map(max, one[2:], last[2:])
            along = last[1] + last[3] - one[1] - one[3]
            turned = UPRIGHT
            if after - at > 1 and abs(along) > 2 * abs(last[0] + last[2] - one[0] - one[2]):
                turned = UP if along > 0 else DOWN
            ends = cut or self.text.startswith(("\r", "\n"), after)
            box = left, bottom, right, top
            pieces.append(TextBox(match[0], *box, len(pieces), turned, ends))
        return pieces
