"""Split a long text into passages of a limited number of tokens, with their offsets.

A passage ends at the end of a paragraph if possible, else of a sentence, a line or a word, and is
as long as the limit allows. Passages do not overlap, and only white space is left out.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

TokenCounter = Callable[[Sequence[str]], Sequence[int]]  # texts -> tokens of each
CharRange = tuple[int, int]
SpanCounter = Callable[[Sequence[CharRange]], Sequence[int]]  # spans of one text -> tokens of each

_CUTS = (
    re.compile(r"\n[ \t\r]*\n\s*"),  # after the blank lines between paragraphs
    re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]+[”’」』）]*\s*"),  # after a sentence
    re.compile(r"\n\s*"),  # after a line
)
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class TextSpan:
    """A part of a text: text[start:end]."""

    start: int
    end: int


def split_text(text: str, count: TokenCounter, limit: int) -> list[TextSpan]:
    """Cut a text into passages of at most `limit` tokens.

    `count` returns the tokens of each of several texts, special tokens left out.
    """

    def measure(spans: Sequence[CharRange]) -> Sequence[int]:
        return count([text[start:end] for start, end in spans])

    return [TextSpan(*span) for span in split_range(text, (0, len(text)), measure, limit)]


def split_range(text: str, span: CharRange, measure: SpanCounter, limit: int) -> list[CharRange]:
    """Cut a part of a text into passages of at most `limit` tokens."""
    stripped = (_strip(text, one) for one in _pack(text, span, 0, measure, max(1, limit)))
    return [(start, end) for start, end in stripped if start < end]


def _pack(
    text: str, span: CharRange, level: int, measure: SpanCounter, limit: int
) -> Iterator[CharRange]:
    """Join neighbouring pieces while they fit; cut a piece that does not fit one level finer."""
    parts = _cut(text, span, level, limit)
    start, end, used = span[0], span[0], 0
    for (left, right), size in zip(parts, measure(parts), strict=True):
        if used + size > limit and start < end:
            yield start, end
            start, used = left, 0
        if size > limit and level <= len(_CUTS):
            yield from _pack(text, (left, right), level + 1, measure, limit)
            start, end, used = right, right, 0
        else:
            end, used = right, used + size
    if start < end:
        yield start, end


def _cut(text: str, span: CharRange, level: int, limit: int) -> list[CharRange]:
    """Cut a span into pieces that follow each other without gaps."""
    if level < len(_CUTS):
        ends = [match.end() for match in _CUTS[level].finditer(text, *span)]
    else:
        size = limit if level == len(_CUTS) else max(1, limit // 4)  # tokens of 1, 1/4 characters
        ends = list(_word_ends(text, span, size))
    edges = sorted({span[0], *ends, span[1]})
    return list(zip(edges, edges[1:], strict=False))


def _word_ends(text: str, span: CharRange, size: int) -> Iterator[int]:
    """Yield cuts at most `size` characters apart, after white space where there is some."""
    start, stop = span
    while stop - start > size:
        tile = text[start : start + size]
        start += max((match.end() for match in _SPACE.finditer(tile)), default=size)
        yield start


def _strip(text: str, span: CharRange) -> CharRange:
    piece = text[slice(*span)]
    start = span[0] + len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())
