"""Split a document into overlapping windows that a model can read, each with its spans.

A span is a passage that can be shown as an answer: it ends with a sentence and holds no heading.
A window is as many spans as the model reads at once. Neighbouring windows share spans, so that each
span is computed with context; it belongs to the window in which it is furthest from the edges.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from opengte.search.ingest.splitter import CharRange, SpanCounter, split_range
from opengte.search.parse.base import Section

SPAN_TOKENS = 96
OVERLAP = 0.125  # of a window, shared with the next
SLACK = 4  # tokens by which a window may differ from the sum of its spans


@dataclass(frozen=True)
class DocumentWindow:
    """text[start:end], which a model reads at once, and the spans that belong to it."""

    start: int
    end: int
    spans: tuple[CharRange, ...]


def split_windows(
    text: str,
    sections: Sequence[Section],
    measure: SpanCounter,
    room: int,
    span_tokens: int = SPAN_TOKENS,
) -> list[DocumentWindow]:
    """Cut a text into windows of at most `room` tokens; none for a text of white space."""
    limit = max(1, min(span_tokens, room - SLACK))
    found = split_spans(text, sections, measure, limit)
    if not found:
        return []
    ranges = window_ranges(measure(found), max(1, room - SLACK), int(room * OVERLAP))
    owned: list[list[CharRange]] = [[] for _ in ranges]
    for number, span in enumerate(found):
        owned[owner_of(number, ranges)].append(span)
    return [
        DocumentWindow(found[first][0], found[last - 1][1], tuple(own))
        for (first, last), own in zip(ranges, owned, strict=True)
    ]


def split_spans(
    text: str, sections: Sequence[Section], measure: SpanCounter, limit: int
) -> list[CharRange]:
    """Cut a text into spans of at most `limit` tokens, at headings first."""
    edges = sorted({0, len(text), *(s.start for s in sections if 0 < s.start < len(text))})
    found = []
    for section in zip(edges, edges[1:], strict=False):
        found += split_range(text, section, measure, limit)
    return _joined(found, text, measure, limit)


def heading_at(sections: Sequence[Section], place: int) -> str:
    """Return the heading under which a character is."""
    index = bisect.bisect_right([section.start for section in sections], place) - 1
    return sections[index].title if index >= 0 else ""


def _joined(found: list[CharRange], text: str, measure: SpanCounter, limit: int) -> list[CharRange]:
    """Join a heading that stands alone with what follows it, where both fit."""
    sizes = measure(found)
    joined: list[CharRange] = []
    held: tuple[int, int] | None = None  # start and size of a lone heading
    for (start, end), size in zip(found, sizes, strict=True):
        if held and held[1] + size <= limit:
            start, size = held[0], held[1] + size
        elif held:
            joined.append((held[0], _previous_end(found, start)))
        held = None
        if size < limit // 4 and "\n" not in text[start:end].strip():
            held = start, size
        else:
            joined.append((start, end))
    if held:
        joined.append((held[0], found[-1][1]))
    return joined


def _previous_end(found: list[CharRange], start: int) -> int:
    return found[bisect.bisect_left(found, (start, start)) - 1][1]


def window_ranges(sizes: Sequence[int], room: int, overlap: int) -> list[tuple[int, int]]:
    """Return which spans, from and to, each window holds."""
    ranges, first = [], 0
    while True:
        last, used = first, 0
        while last < len(sizes) and (last == first or used + sizes[last] <= room):
            used += sizes[last]
            last += 1
        ranges.append((first, last))
        if last == len(sizes):
            return ranges
        # what is shared leaves room for the span that comes next, or the window would add nothing
        shared, back = 0, last
        most = min(overlap, room - sizes[last])
        while back - 1 > first and shared + sizes[back - 1] <= most:
            back -= 1
            shared += sizes[back]
        first = back


def owner_of(number: int, ranges: list[tuple[int, int]]) -> int:
    """Return the window in which a span stands furthest from a cut."""
    last = len(ranges) - 1

    def distance(window: int) -> int:
        first, end = ranges[window]
        before = number - first if window > 0 else len(ranges) + end
        after = end - 1 - number if window < last else len(ranges) + end
        return min(before, after)

    start = bisect.bisect_left(ranges, number + 1, key=lambda one: one[1])
    holding = []
    for window in range(start, len(ranges)):
        if ranges[window][0] > number:
            break
        holding.append(window)
    return max(holding, key=lambda window: (distance(window), -window))
