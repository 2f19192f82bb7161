"""Filter rules and deduplication of single examples."""

from collections import Counter

import pytest

from opengte.data.cleaning.filters import ExampleHashes, FilterRules, LengthLimits
from opengte.data.examples import (
    Example,
    Origin,
)
from opengte.data.preparation.prepare import hash_texts
from opengte.errors import InputError

HERE = Origin("f", 1)


NONE = FilterRules()


def applied(example: Example, rules: FilterRules = NONE) -> tuple[Example | str, dict[str, int]]:
    counts: Counter[str] = Counter()
    outcome = rules.apply(example, ExampleHashes.of(example), counts)
    if not isinstance(outcome, str):
        assert outcome[1] == ExampleHashes.of(outcome[0])
        outcome = outcome[0]
    return outcome, {rule: count for rule, count in counts.items() if count}


def test_texts_that_contradict_a_row_are_taken_away_with_their_scores():
    example = Example(HERE, "Q", ("p", "q ", "P"), ("p ", "n", "Q", "N", ""), tuple(range(8)))
    outcome, counts = applied(example)
    assert outcome == Example(HERE, "Q", ("p",), ("n",), (0, 4))
    assert counts == {
        "positive: query equals positive": 1,
        "positive: equals a positive": 1,
        "negative: equals a positive": 1,
        "negative: equals the query": 1,
        "negative: twice in its row": 1,
        "negative: empty text": 1,
    }


@pytest.mark.parametrize(
    ("example", "rules", "rule"),
    [
        (Example(HERE, "", ("p",)), FilterRules(), "empty text"),
        (Example(HERE, "same  TEXT", ("Same text",)), FilterRules(), "query equals positive"),
        (Example(HERE, "q", ("",)), FilterRules(), "empty text"),
        (Example(HERE, "q", ("p",)), FilterRules(LengthLimits(min_characters=2)), "too short"),
        (Example(HERE, "qq", ("p" * 9,)), FilterRules(LengthLimits(max_characters=8)), "too long"),
        (
            Example(HERE, "q", ("p",)),
            FilterRules(excluded=hash_texts(["Q"])),
            "in the excluded texts",
        ),
        (
            Example(HERE, "q", ("p",)),
            FilterRules(excluded=hash_texts(["P"])),
            "in the excluded texts",
        ),
    ],
)
def test_rows_are_dropped_by_a_rule(example, rules, rule):
    assert applied(example, rules) == (rule, {})


def test_an_excluded_negative_or_second_positive_goes_alone():
    example = Example(HERE, "q", ("p", "r"), ("n", "m"))
    outcome, _ = applied(example, FilterRules(excluded=hash_texts(["r", "n"])))
    assert outcome == Example(HERE, "q", ("p",), ("m",))


def key(*values: object) -> bytes:
    example = Example(HERE, *values)
    return ExampleHashes.of(example).key(example)


def test_two_rows_are_the_same_whatever_the_order_of_their_texts():
    assert key("q", ("a", "b"), ("c", "d")) == key("Q", ("b", "a"), ("d", "C"))
    assert key("q", ("a", "b")) != key("q", ("a",), ("b",))
    assert key("q", ("a",)) != key("q", ("a",), ("b",))
    assert key("q", ("a",), (), (1.0,)) != key("q", ("a",), (), (0.0,))
    assert key("q", ("a", "b"), (), (1.0, 2.0)) == key("q", ("b", "a"), (), (2.0, 1.0))
    assert key("q", ("a", "b"), (), (1.0, 2.0)) != key("q", ("b", "a"), (), (1.0, 2.0))
    assert key("q", ("q",), (), None, "x") != key("q", ("q",), (), None, "y")


def test_limits_that_leave_nothing_are_an_error():
    with pytest.raises(InputError, match="max_tokens=3 is less than min_tokens=5"):
        LengthLimits(min_tokens=5, max_tokens=3)
