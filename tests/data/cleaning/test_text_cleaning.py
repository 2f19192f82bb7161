"""Cleaning of texts."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from opengte.data.cleaning.text_cleaning import CleaningSettings, TextCleaner


def test_cleaning_is_careful_and_counted():
    counts: Counter[str] = Counter()
    clean = TextCleaner(CleaningSettings(), counts)
    assert clean(" a\r\nb\x00\ufeff e\u0301 ") == "a\nb \xe9"
    assert clean("x\ud800y") == "x\ufffdy"
    assert clean("if x:\n    y &amp; z") == "if x:\n    y &amp; z"
    assert counts == {
        "line ends": 1,
        "control characters": 1,
        "NFC": 1,
        "outer white space": 1,
        "surrogates": 1,
    }


def test_cleaning_beyond_that_is_chosen():
    counts: Counter[str] = Counter()
    clean = TextCleaner(CleaningSettings(html=True, space=True), counts)
    assert clean("a &lt;b&gt;\n\n  c&nbsp;d") == "a <b> c d"
    assert set(counts) == {"html entities", "inner white space"}


@given(st.text())
def test_cleaning_twice_changes_nothing(text):
    clean = TextCleaner(CleaningSettings(space=True), Counter())
    assert clean(clean(text)) == clean(text)
