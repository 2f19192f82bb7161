"""Spans out of their document's own pass, against pooling token states by hand."""

import numpy as np
import pytest

from opengte.errors import InputError
from opengte.search.ingest.embedder import Embedder, pools_by_mean, quantize_spans, token_starts
from opengte.search.parse.base import Section
from tests.support.kb import encoder

TEXT = (
    "# Cats\n\nCats are small carnivorous mammals. They sleep for most of the day.\n\n"
    "# Straße & İstanbul\n\nThe İstanbul streets are full of them; naïve visitors feed them 🐈. "
) + "A further sentence says little. " * 40


@pytest.fixture(scope="module")
def minilm():
    from opengte import Encoder

    return Encoder.load("minilm", precision="fp32")


def test_late_spans_are_means_of_the_states_of_their_tokens(minilm):
    embedder = Embedder(minilm, "late", span_tokens=32)
    sections = [Section(0, "Cats"), Section(TEXT.index("# Str"), "Straße")]
    (found,) = embedder.embed([("Title", TEXT, sections)])
    assert len(found.windows) > 1
    assert not found.truncated
    for window in found.windows:
        text = "Title\n\n" + TEXT[window.start : window.end]
        made = minilm.embed([text], role="document", outputs=("dense", "states"))
        np.testing.assert_allclose(window.vector, made.dense[0], atol=1e-6)
        encoding = minilm.tokenizer.backend.encode(text)
        for (start, end), vector in zip(window.spans.bounds, window.spans.floats(), strict=True):
            own = [
                n
                for n, (a, b) in enumerate(encoding.offsets)
                if b > a and start <= a - 7 + window.start < end
            ]
            mean = made.states[0][own].mean(axis=0)
            mean /= np.linalg.norm(mean)
            assert vector @ mean / np.linalg.norm(vector) > 0.9995


def test_where_tokens_start_though_lower_case_is_longer(minilm):
    text = "İİ x"
    lower = text.lower()
    assert len(lower) > len(text)

    class Lowering:
        lowercase = True
        backend = minilm.tokenizer.backend

    (starts,) = token_starts(Lowering, [text])
    assert max(starts) == text.index("x")


def test_pooling_is_measured(minilm):
    assert pools_by_mean(minilm)
    assert not pools_by_mean(encoder("x"))
    with pytest.raises(InputError, match="does not pool by a mean"):
        Embedder(encoder("x"), "late")


def test_classic_spans_are_texts_of_their_own():
    words = encoder("x")
    text = "red cat eats. blue dog runs. green house of stone. " * 3
    (found,) = Embedder(words, "classic", span_tokens=6).embed([("T", text, [])])
    for window in found.windows:
        for (start, end), vector in zip(window.spans.bounds, window.spans.floats(), strict=True):
            alone = words.embed(["T\n\n" + text[start:end]], role="document").dense[0]
            np.testing.assert_allclose(vector, alone, atol=0.01)


def test_no_spans_on_request():
    (found,) = Embedder(encoder("x"), "none").embed([("", "red cat", [])])
    assert found.windows[0].spans.bounds.shape == (0, 2)


def test_documents_come_in_order_with_empty_ones_between():
    embedder = Embedder(encoder("x"), "none")
    texts = ["red", "", "blue " * 60, " ", "cat"]
    found = list(embedder.embed([("", text, []) for text in texts]))
    assert [len(one.windows) > 0 for one in found] == [True, False, True, False, True]
    for one, text in zip(found, texts, strict=True):
        alone = list(embedder.embed([("", text, [])]))[0]
        for a, b in zip(one.windows, alone.windows, strict=True):
            np.testing.assert_allclose(a.vector, b.vector, rtol=1e-6)


def test_eight_bits_are_close():
    vectors = np.random.default_rng(0).standard_normal((50, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    back = quantize_spans([(0, 1)] * 50, vectors).floats()
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    assert float((back * vectors).sum(axis=1).min()) > 0.9995
    assert quantize_spans([], np.zeros((0, 8), np.float32)).floats().shape == (0, 8)
