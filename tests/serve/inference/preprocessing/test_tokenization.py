"""Tokenization: the fast path gives the same tokens."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opengte import Encoder
from opengte.serve.inference.preprocessing.tokenization import (
    tokenize_inputs,
    tokenize_plain_text,
)
from opengte.serve.inference.types import RequestOptions, salt


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load("minilm", engine="native", precision="fp32")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(text=st.text(max_size=50), prefix=st.sampled_from(["", "query: "]))
def test_the_fast_path_gives_the_same_tokens(encoder, text, prefix):
    options = RequestOptions(frozenset(("dense",)), 384, salt(prefix), prefix=prefix)
    fast = tokenize_plain_text(encoder, options, text)
    if fast is None:
        return
    (both,) = tokenize_inputs(encoder, options, [text, text])  # two texts take the slow path
    length = both.batch.cu_seqlens[1]
    np.testing.assert_array_equal(fast.batch.ids, both.batch.ids[:length])
    np.testing.assert_array_equal(fast.batch.type_ids, both.batch.type_ids[:length])
    assert fast.original_lengths == both.original_lengths[:1]
    assert fast.batch.pool_from[0] == both.batch.pool_from[0]


def test_short_texts_take_the_fast_path(encoder):
    options = RequestOptions(frozenset(("dense",)), 384, salt(1))
    assert tokenize_plain_text(encoder, options, "what do cats eat") is not None
    assert tokenize_plain_text(encoder, options, "word " * 300) is None
    (tokenized,) = tokenize_inputs(encoder, options, ["word " * 300])
    assert tokenized.original_lengths == [302]
