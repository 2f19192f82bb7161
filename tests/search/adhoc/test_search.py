"""Search over documents: best passage, windows, budget, against scoring everything at once."""

from pathlib import Path

import numpy as np
import pytest

from opengte.search.adhoc import search as folder
from opengte.search.adhoc.files import FileText
from opengte.search.adhoc.search import search_files
from opengte.search.ingest.splitter import split_text
from tests.support.fake_models import FakeEncoder


@pytest.fixture
def encoder():
    return FakeEncoder.load("minilm")


def documents(*contents: str) -> list[FileText]:
    return [FileText(Path(f"{n}.txt"), None, text) for n, text in enumerate(contents)]


def names(found) -> list[str]:
    return [hit.document.path.name for hit in found.hits]


def test_the_best_passage_is_found_in_the_middle_of_a_document(encoder):
    filler = "Nothing of interest is said in this long sentence here. " * 20
    text = f"{filler}\n\nwhat eats grass\n\n{filler}"
    found = search_files(encoder, "what eats grass", documents("other words", text), k=2)
    assert names(found) == ["1.txt", "0.txt"]
    passage = found.hits[0].passage
    assert text[passage.start : passage.end] == "what eats grass"
    assert found.documents == 2
    assert found.truncated == 0


@pytest.mark.parametrize("window", [1, 3, 1000])
def test_windows_change_nothing(encoder, monkeypatch, window):
    monkeypatch.setattr(folder, "WINDOW", window)
    random = np.random.default_rng(0)
    vocabulary = np.array("red green blue cat dog fish runs sleeps eats . . \n\n".split(" "))
    contents = [" ".join(random.choice(vocabulary, 60)) for _ in range(12)]
    found = search_files(encoder, "red cat eats", documents(*contents), k=5)
    scores = [best_score(encoder, "red cat eats", text) for text in contents]
    order = np.argsort(-np.array(scores), kind="stable")[:5]
    assert names(found) == [f"{n}.txt" for n in order]
    np.testing.assert_allclose(
        [hit.score for hit in found.hits], np.array(scores)[order], rtol=1e-6
    )


def best_score(encoder, query: str, text: str) -> float:
    """Score every passage of a text on its own."""
    spans = split_text(text, lambda texts: encoder.tokenizer.count(texts) - 2, 13)
    asked = encoder.embed([query], role="query").dense[0]

    def vector(piece):
        return encoder.embed([piece], role="document").dense[0]

    return max(float(vector(text[s.start : s.end]) @ asked) for s in spans)


def test_shorter_passages_on_request(encoder):
    found = search_files(encoder, "a", documents("a b c d e f g h"), passage_tokens=2)
    assert found.passages == 4


def test_a_query_that_is_too_long_is_counted(encoder):
    assert search_files(encoder, "word " * 50, documents("a")).truncated == 1


def test_empty_documents_are_seen_but_never_found(encoder):
    found = search_files(encoder, "a", documents("", "b", " \n"))
    assert names(found) == ["1.txt"]
    assert found.documents == 3


def test_no_documents_no_hits(encoder):
    assert search_files(encoder, "a", []).hits == ()


def test_texts_of_other_documents_are_let_go(encoder, monkeypatch):
    monkeypatch.setattr(folder, "WINDOW", 2)
    sizes, original = [], folder.keep_best

    def keep(best, candidates):
        kept = original(best, candidates)
        sizes.append(len(kept))
        return kept

    monkeypatch.setattr(folder, "keep_best", keep)
    search_files(encoder, "a", documents(*"abcdefghij"), k=2)
    assert sizes == [2] * 5
