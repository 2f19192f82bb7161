"""Passages: nothing lost, nothing twice, none too long, cut where a reader would cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengte.search.ingest.splitter import split_text


def words(texts):
    return [len(text.split()) for text in texts]


def characters(texts):
    return [len(text) for text in texts]


def parts(text, limit, count=words):
    return [text[p.start : p.end] for p in split_text(text, count, limit)]


prose = st.lists(
    st.sampled_from(["a", "word", "end.", "What?", "。", "\n", "\n\n", " \n \n", " ", "\t", "é"]),
    max_size=60,
).map(" ".join)


@given(prose | st.text(), st.integers(1, 12), st.sampled_from([words, characters]))
def test_passages_tile_the_text_and_fit(text, limit, count):
    found = split_text(text, count, limit)
    end = 0
    for passage in found:
        assert text[end : passage.start].strip() == ""
        piece = text[passage.start : passage.end]
        assert piece == piece.strip() != ""
        assert count([piece])[0] <= limit
        end = passage.end
    assert text[end:].strip() == ""


def test_a_short_text_is_one_passage():
    assert parts("  one. two.\n\nthree  ", 10) == ["one. two.\n\nthree"]


def test_paragraphs_stay_whole_where_they_fit():
    assert parts("a b c\n\nd e f\n\ng h", 5) == ["a b c", "d e f\n\ng h"]


def test_a_long_paragraph_is_cut_after_sentences():
    text = 'He said "one two." Then three four! Was it five? Yes.\n\nNext one.'
    wanted = ['He said "one two."', "Then three four! Was it five?", "Yes.", "Next one."]
    assert parts(text, 6) == wanted


def test_a_sentence_that_is_too_long_is_cut_after_lines_then_words():
    assert parts("a b c\nd e f\ng h", 6) == ["a b c\nd e f", "g h"]
    assert parts("one two three four five", 8, characters) == ["one two", "three", "four", "five"]


def test_short_paragraphs_after_a_long_one_are_joined():
    text = "one two three four. Five six.\n\na b\n\nc d"
    assert parts(text, 4) == ["one two three four.", "Five six.", "a b\n\nc d"]


def test_chinese_sentences_end_without_a_space():
    assert parts("今天天气好。我们去公园。", 6, characters) == ["今天天气好。", "我们去公园。"]


def test_a_word_that_is_too_long_is_cut_anyway():
    assert parts("x" * 30, 8, characters) == ["xxxxxxxx"] * 3 + ["xxxxxx"]


@pytest.mark.parametrize("text", ["", " \n\n\t"])
def test_white_space_gives_no_passage(text):
    assert split_text(text, words, 5) == []


def test_a_large_text_is_counted_a_few_times_only():
    counted = 0

    def count(texts):
        nonlocal counted
        counted += sum(map(len, texts))
        return words(texts)

    text = "word " * 40_000
    assert len(split_text(text, count, 256)) == pytest.approx(40_000 / 256, rel=0.1)
    assert counted <= 4 * len(text)
