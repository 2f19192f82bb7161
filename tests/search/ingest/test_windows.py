"""Spans and windows: nothing lost, nothing too long, every span in its best window."""

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from opengte.search.ingest.windows import (
    SLACK,
    heading_at,
    owner_of,
    split_spans,
    split_windows,
    window_ranges,
)
from opengte.search.parse.base import Section


def count(texts):
    return [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]


def measure(text):
    """Count the tokens of spans of a text."""
    return lambda spans: count([text[start:end] for start, end in spans])


PIECES = st.lists(
    st.sampled_from(["word ", "A longer sentence is here. ", "\n\n", "\n", "x", "日本。", "# H\n"]),
    max_size=120,
)


@given(PIECES, st.integers(1, 30), st.lists(st.integers(0, 400), max_size=4))
@settings(deadline=None)
def test_spans_hold_all_of_a_text_and_cross_no_heading(pieces, limit, places):
    text = "".join(pieces)
    sections = [Section(place, str(place)) for place in sorted(places)]
    found = split_spans(text, sections, measure(text), limit)
    covered = "".join(text[start:end] for start, end in found)
    assert "".join(covered.split()) == "".join(text.split())
    assert all(a[1] <= b[0] for a, b in zip(found, found[1:], strict=False))
    for start, end in found:
        assert count([text[start:end]])[0] <= max(limit, 1) or " " not in text[start:end]


@given(PIECES, st.integers(8, 60), st.integers(1, 40))
@settings(deadline=None)
def test_windows_fit_and_own_every_span_once(pieces, room, span_tokens):
    text = "".join(pieces)
    windows = split_windows(text, [], measure(text), room, span_tokens)
    owned = sorted(span for window in windows for span in window.spans)
    assert owned == split_spans(text, [], measure(text), min(span_tokens, room - SLACK))
    for window in windows:
        size = count([text[window.start : window.end]])[0]
        assert size <= room or " " not in text[window.start : window.end].strip()
        assert all(window.start <= start < end <= window.end for start, end in window.spans)


@example(sizes=[1, 1, 12], room=12)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=60), room=st.integers(12, 40))
def test_windows_cover_all_spans_and_overlap(sizes, room):
    ranges = window_ranges(sizes, room, room // 8)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(sizes)
    for (first, last), (after, end) in zip(ranges, ranges[1:], strict=False):
        assert first < after <= last < end
    for number in range(len(sizes)):
        owner = owner_of(number, ranges)
        assert ranges[owner][0] <= number < ranges[owner][1]
        assert distance(number, owner, ranges) == max(
            distance(number, w, ranges) for w, (a, b) in enumerate(ranges) if a <= number < b
        )


def distance(number, window, ranges):
    """How far a span stands from where its window was cut; the ends of a text are no cuts."""
    first, end = ranges[window]
    far = 10**6
    return min(
        number - first if window else far, end - 1 - number if window < len(ranges) - 1 else far
    )


def test_short_texts_are_one_window():
    (window,) = split_windows("One sentence. Two.", [], measure("One sentence. Two."), 100)
    assert (window.start, window.end, window.spans) == (0, 18, ((0, 18),))
    assert split_windows(" \n ", [], measure(" \n "), 100) == []


def test_a_heading_stays_with_its_text():
    text = "# Head\n\nThe text under it is here."
    assert split_spans(text, [Section(0, "Head")], measure(text), 40) == [(0, len(text))]


def test_the_heading_of_a_place():
    sections = [Section(5, "A"), Section(20, "B")]
    assert [heading_at(sections, place) for place in (0, 5, 19, 20, 99)] == ["", "A", "A", "B", "B"]
