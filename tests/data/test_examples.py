"""Hashes that recognise equal texts."""

from hypothesis import given
from hypothesis import strategies as st

from opengte.data.examples import (
    array_to_hashes,
    hashes_to_array,
    normalised_text,
    text_hash,
)


@given(st.text(), st.text())
def test_hashes_are_equal_for_the_same_texts_only(first, second):
    assert (text_hash(first) == text_hash(second)) == (
        normalised_text(first) == normalised_text(second)
    )


def test_texts_are_the_same_but_for_case_space_and_encoding():
    assert len({text_hash(text) for text in ("A \tb", "a b", " a\nB ", "\uff21 b")}) == 1
    assert text_hash("a b") != text_hash("ab")


@given(st.lists(st.binary(min_size=16, max_size=16)))
def test_hashes_as_numbers_and_back(hashes):
    assert array_to_hashes(hashes_to_array(hashes)) == hashes
