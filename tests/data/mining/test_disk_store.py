"""Texts and vectors on disk."""

import numpy as np
import pytest

from opengte.data.mining import disk_store
from opengte.errors import InputError


def number(text: str) -> float:
    return sum(float(word) for word in text.split() if word[-1].isdigit())


def vector(text: str) -> np.ndarray:
    """Embed a text as whole numbers: scores are exact however they are computed, with many ties."""
    twice = int(2 * number(text))
    return np.array([twice % 10 - 3, twice // 10 % 10 - 4, 1 + twice // 100], dtype=np.float32)


def embed(texts) -> np.ndarray:
    return np.stack([vector(text) for text in texts])


def test_vectors_of_other_texts_or_models_are_made_anew(tmp_path):
    calls: list[int] = []

    def counted(texts):
        calls.append(len(texts))
        return embed(texts)

    texts = [f"t {i}" for i in range(9)]
    for identity in ({"model": "a"}, {"model": "a"}, {"model": "b"}):
        found = disk_store.embed_to_disk(texts, counted, tmp_path / "v.f32", identity)
        np.testing.assert_array_equal(found, embed(texts))
    assert calls == [9, 9]
    with pytest.raises(InputError, match="no texts to embed"):
        disk_store.embed_to_disk([], counted, tmp_path / "w.f32", {})


def test_texts_on_disk(tmp_path):
    texts, expected = disk_store.TextStore(tmp_path / "t"), ["a", "", "été\n", "\ud800x"]
    for text in expected:
        texts.append(text)
        assert texts[0] == "a"
    assert texts[:] == expected
    assert texts[1:3] == expected[1:3]
    assert list(texts) == expected
    texts.close()
