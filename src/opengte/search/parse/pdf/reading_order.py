"""The order in which a page is read: from the places of its text, not from when it was drawn.

What programs write is mostly drawn in reading order, and that order knows more than places tell, so
it is kept unless the places contradict it: lines that jump up the page, lines of columns that
alternate, tables that were drawn column by column.
"""

from collections.abc import Iterator, Sequence

from opengte.search.parse.pdf.glyphs import DOWN, RTL, UP, UPRIGHT, Box, TextBox

GUTTER = 0.8  # narrowest space between columns, in heights of a line
WIDE = 1.2  # space in a line, in heights, that words do not have between them
UP_A_LINE, JUMP = 0.8, 2.5  # heights; formulas move up by as much, but not to where lines begin
NARROW = 10.0  # width of a column, in heights, that a table may have but hardly prose


def is_drawn_in_order(boxes: Sequence[Box]) -> bool:
    """Return whether runs follow one another down the page, column by column, without gaps.

    >>> lines = [(72, 700, 300, 712), (72, 680, 300, 692), (72, 660, 200, 672)]
    >>> is_drawn_in_order(lines), is_drawn_in_order(lines[::-1])
    (True, False)
    """
    edge = widest = line = 0.0  # of the column so far; where the line begins
    spaces: list[Box] = []  # wide ones in a line; two of them may part columns
    before: Box | None = None
    for number, box in enumerate(boxes):
        left, bottom, right, top = box
        if before is not None:
            height = max(before[3] - before[1], top - bottom, 1.0)
            if bottom > before[1] + UP_A_LINE * height:
                if bottom <= before[1] + JUMP * height:
                    if left < line + 0.5 * height:
                        return False
                elif left < edge or widest < NARROW * height:
                    return False
                else:
                    edge = widest = 0.0
            elif top > before[1]:
                if right < before[0]:
                    return False
                if left - before[2] > WIDE * height and not _is_page_number(boxes, number):
                    spaces.append((before[2], bottom, left, top))
            else:
                line = left
        else:
            line = left
        edge, widest = max(edge, right), max(widest, right - left)
        before = box
    return not any(
        _goes_on(above, space)
        for number, space in enumerate(spaces)
        for above in spaces[max(number - 8, 0) : number]
    )


def _is_page_number(boxes: Sequence[Box], number: int) -> bool:
    """Return whether a run is short and the last of its line, as in a table of contents."""
    left, bottom, right, top = boxes[number]
    is_last = number + 1 == len(boxes) or boxes[number + 1][3] <= top - 0.5 * (top - bottom)
    return right - left < 3 * (top - bottom) and is_last


def _goes_on(space: Box, below: Box) -> bool:
    """Return whether a space in a line is next to another above it."""
    near = space[1] - below[3] < 4 * (below[3] - below[1])
    return near and space[0] < below[2] and below[0] < space[2]


def read_in_order(words: Sequence[TextBox], *, rebuilt: bool) -> str | None:
    """Return the text of words in reading order.

    Where the order they are in is right, that is None, or their text if it must be rebuilt.
    """
    words = _upright(words)
    pieces = _segments(words)
    level = [one for one in pieces if not one.turned]
    page = _Page(level)
    if level and (_jumps(level) or page.contradicts()):
        turned = [one for one in pieces if one.turned]  # beside a picture or a table, say
        return "\n".join((*_lines(page.ordered()), *_lines(iter(turned))))
    return "\n".join(_lines(iter(pieces))) if rebuilt else None


def _upright(words: Sequence[TextBox]) -> Sequence[TextBox]:
    """Return the words of a page that lies on its side as if it stood upright."""
    letters = {turn: 0 for turn in (UPRIGHT, UP, DOWN)}
    for one in words:
        letters[one.turned] += len(one.text) if len(one.text) > 1 else 0
    turn = max(letters, key=lambda key: letters[key])
    if turn == UPRIGHT:
        return words
    return [
        TextBox(one.text, *_rotated(one, turn), one.index, UPRIGHT, one.ends_line) for one in words
    ]


def _rotated(one: TextBox, turn: int) -> Box:
    if turn == UP:
        return one.bottom, -one.right, one.top, -one.left
    return -one.top, one.left, -one.bottom, one.right


def _segments(words: Sequence[TextBox]) -> list[TextBox]:
    """Join the words that follow one another in a line."""
    joined: list[TextBox] = []
    for word in words:
        last = joined[-1] if joined else None
        if last is not None and not last.ends_line and _continues(last, word):
            last.text += " " + word.text
            last.bottom, last.top = min(last.bottom, word.bottom), max(last.top, word.top)
            last.left, last.right = min(last.left, word.left), max(last.right, word.right)
            last.ends_line = word.ends_line
        else:
            joined.append(word)
    return joined


def _continues(last: TextBox, word: TextBox) -> bool:
    if last.turned != word.turned or _overlap(last, word) < 0.3:
        return False
    gap = GUTTER * min(last.height, word.height)
    return -gap < word.left - last.right < gap


def _overlap(one: TextBox, other: TextBox) -> float:
    """Return the share of the lower of two boxes that stands beside the other."""
    shared = min(one.top, other.top) - max(one.bottom, other.bottom)
    return shared / min(one.height, other.height)


def _jumps(pieces: Sequence[TextBox]) -> bool:
    """Return whether the order goes up the page to what is no next column."""
    edge = 0.0
    for before, after in zip(pieces, pieces[1:], strict=False):
        edge = max(edge, before.right)
        rise = (after.bottom - before.bottom) / before.height
        if rise > JUMP and after.left >= edge:
            edge = 0.0
        elif rise > JUMP or (rise > UP_A_LINE and after.left < before.left + 0.5 * before.height):
            return True
    return False


class _Page:
    """Pieces of text that are put in order: full lines, and bands of columns between them."""

    def __init__(self, pieces: Sequence[TextBox]) -> None:
        self.pieces = sorted(pieces, key=lambda one: (-one.top, one.left))
        rtl = sum(1 for one in pieces if RTL.search(one.text))
        self.rtl = rtl * 2 > len(pieces)

    def contradicts(self) -> bool:
        """Return whether a band of columns was drawn in another order than it is read."""
        return any(band.contradicts() for band in self._bands() if isinstance(band, _Band))

    def ordered(self) -> Iterator[TextBox]:
        """Yield the pieces in reading order; a new line begins where the height changes."""
        loose: list[TextBox] = []
        for part in self._bands():
            if isinstance(part, TextBox):
                loose.append(part)
                continue
            yield from _rows(loose, rtl=self.rtl)
            loose = []
            if part.is_table():
                yield from _rows(part.pieces, rtl=self.rtl)
            else:
                for column in part.columns(rtl=self.rtl):
                    yield from _Page(column).ordered()
        yield from _rows(loose, rtl=self.rtl)

    def _bands(self) -> Iterator["TextBox | _Band"]:
        """Yield what stands alone in its place, and bands, from top to bottom."""
        at = 0
        while at < len(self.pieces):
            band = self._band_at(at)
            if band is None:
                yield self.pieces[at]
                at += 1
            else:
                yield band
                at += len(band.pieces)

    def _band_at(self, start: int) -> "_Band | None":
        """Return the band that begins with a piece: beside it is another, with a space between."""
        first = self.pieces[start]
        beside = [
            one
            for one in self.pieces[start + 1 : start + 12]
            if _overlap(first, one) > 0.3
            and (one.left - first.right > 0 or first.left - one.right > 0)
        ]
        for other in beside:
            low, high = sorted((first, other), key=lambda one: one.left)
            band = _Band.grown(self.pieces, start, low.right, high.left)
            if band is not None:
                return band
        return None


class _Band:
    """Neighbouring pieces with a space down through all of them: columns, or a table."""

    def __init__(self, pieces: list[TextBox], left: float, right: float) -> None:
        self.pieces = pieces
        middle = (left + right) / 2
        self.low = [one for one in pieces if one.right <= middle]
        self.high = [one for one in pieces if one.right > middle]

    @classmethod
    def grown(cls, pieces: list[TextBox], start: int, left: float, right: float) -> "_Band | None":
        """Return the pieces from a start on that leave a space free, None for a single row."""
        least = GUTTER * pieces[start].height
        taken: list[TextBox] = []
        bottoms = [pieces[start].bottom, pieces[start].bottom]
        for one in pieces[start:]:
            trimmed = left, right
            if one.right > left and one.left < right:
                to_left = (one.left + one.right) / 2 < (left + right) / 2
                trimmed = (one.right, right) if to_left else (left, one.left)
            if trimmed[1] - trimmed[0] < least or min(bottoms) - one.top > 4 * one.height:
                break
            side = one.right > (trimmed[0] + trimmed[1]) / 2
            if bottoms[side] - one.top > 2 * one.height and bottoms[1 - side] > one.top:
                if not _has_company(one, pieces, trimmed):
                    break
            left, right = trimmed
            bottoms[side] = min(one.bottom, bottoms[side])
            taken.append(one)
        band = cls(taken, left, right)
        return band if band._rows_of_both() > 1 else None

    def _rows_of_both(self) -> int:
        return sum(any(_overlap(one, other) > 0.3 for other in self.high) for one in self.low)

    def columns(self, *, rtl: bool) -> tuple[list[TextBox], list[TextBox]]:
        """Return the two sides of the space in the order in which they are read."""
        return (self.high, self.low) if rtl else (self.low, self.high)

    def contradicts(self) -> bool:
        """Return whether the pieces are drawn in another order than this band is read in."""
        return self._is_drawn_by_columns() == self.is_table()

    def is_table(self) -> bool:
        """Return whether this is read row by row."""
        if self._is_drawn_by_columns():
            return self._is_aligned() and _words_each(self.pieces) < 3
        return not (_is_wrapped(self.low) and _is_wrapped(self.high))

    def _is_drawn_by_columns(self) -> bool:
        low = {one.index for one in self.low}
        sides = [one.index in low for one in sorted(self.pieces, key=lambda one: one.index)]
        switches = sum(one != other for one, other in zip(sides, sides[1:], strict=False))
        return switches <= max(1, min(len(self.low), len(self.high)) // 2)

    def _is_aligned(self) -> bool:
        """Return whether nearly all of the shorter side stands exactly beside some of the other."""
        few, many = sorted((self.low, self.high), key=len)
        beside = sum(any(_is_level(one, other) for other in many) for one in few)
        return len(few) > 2 and beside >= 0.8 * len(few)


def _has_company(piece: TextBox, pieces: Sequence[TextBox], space: tuple[float, float]) -> bool:
    """Return whether something stands on the other side of a space, beside a piece."""
    left, right = space
    return any(
        _overlap(piece, one) > 0.3 and (one.right <= left) != (piece.right <= left)
        for one in pieces
        if one is not piece and (one.right <= left or one.left >= right)
    )


def _is_level(one: TextBox, other: TextBox) -> bool:
    return abs(one.bottom - other.bottom) < 0.2 * min(one.height, other.height)


def _words_each(pieces: Sequence[TextBox]) -> float:
    return sum(len(one.text.split()) + len(one.text) / 40 for one in pieces) / len(pieces)


def _is_wrapped(pieces: Sequence[TextBox]) -> bool:
    """Return whether lines end where the first word of the next would not have fitted: prose."""
    if len(pieces) < 3 or _words_each(pieces) < 2.5:
        return False
    edge, start = max(one.right for one in pieces), min(one.left for one in pieces)
    full = continued = 0
    for one, after in zip(pieces, pieces[1:], strict=False):
        word = after.text.split(" ", 1)[0]
        needed = (after.right - after.left) * (len(word) + 1) / max(len(after.text), 1)
        full += one.right + needed * 1.15 > edge or one.left - needed * 1.15 < start
        continued += not word[:1].isupper() and not word[:1].isdigit()
    return full >= 0.6 * (len(pieces) - 1) and continued >= 0.5 * (len(pieces) - 1)


def _rows(pieces: Sequence[TextBox], *, rtl: bool) -> Iterator[TextBox]:
    """Yield pieces row by row."""
    row: list[TextBox] = []
    for one in sorted(pieces, key=lambda one: -(one.top + one.bottom)):
        if row and all(_overlap(one, other) < 0.5 for other in row):
            yield from _row(row, rtl=rtl)
            row = []
        row.append(one)
    yield from _row(row, rtl=rtl)


def _row(row: list[TextBox], *, rtl: bool) -> Iterator[TextBox]:
    row.sort(key=lambda one: -one.right if rtl else one.left)
    for one in row:
        one.ends_line = one is row[-1]
        yield one


def _lines(pieces: Iterator[TextBox]) -> Iterator[str]:
    line: list[str] = []
    for one in pieces:
        line.append(one.text)
        if one.ends_line:
            yield "\t".join(line)
            line = []
    if line:
        yield "\t".join(line)
