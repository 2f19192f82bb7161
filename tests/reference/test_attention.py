"""Packed attention and pooling against their slow, obvious twins."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte.arch.plan import Attention, BucketBias, LinearBias, LogN
from opengte.reference import layers
from opengte.types import PackedBatch


def batch_of(lengths: list[int], pool_from: list[int] | None = None) -> PackedBatch:
    cu_seqlens = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    ids = np.zeros(cu_seqlens[-1], np.int32)
    return PackedBatch(ids, cu_seqlens, ids, np.array(pool_from or [0] * len(lengths), np.int32))


def attention(heads: int, kv_heads: int, head_dim: int, **changes) -> Attention:
    settings = {
        "qkv_bias": True,
        "out_bias": True,
        "causal": False,
        "rope": None,
        "window": None,
        "qk_norm": None,
        "logn": None,
        **changes,
    }
    return Attention(heads=heads, kv_heads=kv_heads, head_dim=head_dim, **settings)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 7]),
    head_dim=st.sampled_from([2, 6, 16]),
    causal=st.booleans(),
    window=st.sampled_from([None, 0, 1, 5, 100]),
    seed=st.integers(0, 99),
)
def test_packed_attention_is_naive_attention(
    lengths, kv_heads, group, head_dim, causal, window, seed
):
    packed = layers.to_device(batch_of(lengths), torch.device("cpu"))
    plan = attention(kv_heads * group, kv_heads, head_dim, causal=causal, window=window)
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(sum(lengths), heads, head_dim, generator=generator, dtype=torch.float64)
        for heads in (plan.heads, kv_heads, kv_heads)
    )
    found = layers.attend(q, k, v, packed, plan)
    torch.testing.assert_close(found, layers.attend_naive(q, k, v, packed, plan))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    heads=st.sampled_from([1, 2, 3, 5, 8]),
    kind=st.sampled_from([BucketBias(32, 128), BucketBias(8, 20), LinearBias()]),
    causal=st.booleans(),
    window=st.sampled_from([None, 0, 3]),
    scale=st.sampled_from([None, 1.0, 0.2]),
    seed=st.integers(0, 99),
)
def test_biased_and_scaled_attention_is_naive_attention(
    lengths, heads, kind, causal, window, scale, seed
):
    packed = layers.to_device(batch_of(lengths), torch.device("cpu"))
    plan = replace(attention(heads, heads, 6, causal=causal, window=window), scale=scale)
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(sum(lengths), heads, 6, generator=generator, dtype=torch.float64)
        for _ in range(3)
    )
    learned = torch.randn(32, heads, generator=generator, dtype=torch.float64)
    table = layers.bias_table(kind, learned, heads, packed.longest, q)
    found = layers.attend(q, k, v, packed, plan, table)
    torch.testing.assert_close(found, layers.attend_naive(q, k, v, packed, plan, table))


def varlen_of_an_older_pytorch(q, k, v, cu_q, cu_k, max_q, max_k, *, window_size=(-1, -1)):
    """Do what PyTorch 2.11 does: no grouped heads, windows as reach to the left and right."""
    assert k.shape == q.shape and max_q == max_k == int(cu_q.diff().max())
    left, right = window_size
    result = torch.empty_like(q)
    for start, stop in zip(cu_q.tolist(), cu_k.tolist()[1:], strict=False):
        ahead = torch.arange(stop - start) - torch.arange(stop - start)[:, None]
        seen = torch.ones_like(ahead, dtype=torch.bool)
        if left >= 0:
            seen &= ahead >= -left
        if right >= 0:
            seen &= ahead <= right
        heads = [x[start:stop].transpose(0, 1) for x in (q, k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=seen)
        result[start:stop] = out.transpose(0, 1)
    return result


def varlen_of_a_newer_pytorch(*args, window_size=(-1, -1), enable_gqa=False, num_splits=None):
    """Do what PyTorch 2.13 does: told of grouped heads, and into how many parts keys are split."""
    q, k, v, *rest = args
    assert num_splits == 1 and enable_gqa == (k.shape[1] != q.shape[1])
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    return varlen_of_an_older_pytorch(q, k, v, *rest, window_size=window_size)


@pytest.mark.parametrize("varlen", [varlen_of_an_older_pytorch, varlen_of_a_newer_pytorch])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 0, 3])
@pytest.mark.parametrize("group", [1, 3])
def test_what_a_gpu_is_asked_for_is_naive_attention(varlen, causal, window, group, monkeypatch):
    monkeypatch.setattr(layers, "has_varlen", lambda q: True)
    monkeypatch.setattr(layers, "varlen_attn", varlen)
    monkeypatch.setattr(layers, "VARLEN_OPTIONS", inspect.signature(varlen).parameters)
    packed = layers.to_device(batch_of([5, 9, 1]), torch.device("cpu"))
    plan = attention(2 * group, 2, 8, causal=causal, window=window)
    q, k, v = (torch.randn(15, heads, 8, dtype=torch.float64) for heads in (2 * group, 2, 2))
    found = layers.attend(q, k, v, packed, plan)
    torch.testing.assert_close(found, layers.attend_naive(q, k, v, packed, plan))


@pytest.mark.parametrize("causal", [False, True])
def test_local_attention_crosses_query_blocks(causal, monkeypatch):
    monkeypatch.setattr(layers, "QUERY_BLOCK", 16)
    packed = layers.to_device(batch_of([70, 33]), torch.device("cpu"))
    plan = attention(2, 1, 8, causal=causal, window=5)
    q, k, v = (torch.randn(103, heads, 8, dtype=torch.float64) for heads in (2, 1, 1))
    found = layers.attend(q, k, v, packed, plan)
    torch.testing.assert_close(found, layers.attend_naive(q, k, v, packed, plan))


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [None, LinearBias()])
def test_tokens_that_are_not_attended_to(causal, window, bias):
    batch = replace(batch_of([9, 9, 9, 5]), attended=np.array([4, 4, 9, 1], np.int32))
    packed = layers.to_device(batch, torch.device("cpu"))
    plan = attention(2, 1, 8, causal=causal, window=window)
    q, k, v = (torch.randn(32, heads, 8, dtype=torch.float64) for heads in (2, 1, 1))
    table = None if bias is None else layers.bias_table(bias, None, 2, 9, q)
    found = layers.attend(q, k, v, packed, plan, table)
    torch.testing.assert_close(found, layers.attend_naive(q, k, v, packed, plan, table))


def test_runs_join_neighbours_of_equal_length():
    packed = layers.to_device(batch_of([3, 3, 2, 3]), torch.device("cpu"))
    assert packed.runs == (
        layers.EqualLengthRun(0, 2, 3, 3),
        layers.EqualLengthRun(6, 1, 2, 2),
        layers.EqualLengthRun(8, 1, 3, 3),
    )
    assert packed.positions.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 2]
    assert packed.owners.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


def test_pooling_kinds():
    packed = layers.to_device(batch_of([2, 3], pool_from=[0, 1]), torch.device("cpu"))
    states = torch.arange(10.0).view(5, 2)
    assert layers.pool(states, packed, "cls").tolist() == [[0, 1], [6, 7]]
    assert layers.pool(states, packed, "last").tolist() == [[2, 3], [8, 9]]
    assert layers.pool(states, packed, "mean").tolist() == [[1, 2], [7, 8]]


@pytest.mark.parametrize(("clip", "expected"), [(False, [0.5, 2.0]), (True, [1.0, 2.0])])
def test_log_n_scales_queries_by_their_own_sequence(clip, expected):
    packed = layers.to_device(batch_of([4, 256]), torch.device("cpu"))
    scaled = layers.scale_queries(torch.ones(260, 1, 2), LogN(16, clip), packed)
    torch.testing.assert_close(scaled[[0, 4], 0, 0], torch.tensor(expected))


def test_compiled_model_gives_the_same_states():
    from opengte.arch import plan_of
    from opengte.reference.model import ReferenceModel

    plan = plan_of(
        {
            "model_type": "modernbert",
            "vocab_size": 30,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "local_attention": 4,
        }
    )
    torch.manual_seed(0)
    model = ReferenceModel(plan).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    compiled = torch.compile(model, backend="eager")
    for lengths in ([5, 3], [9], [2, 2, 7]):
        packed = layers.to_device(batch_of(lengths), torch.device("cpu"))
        with torch.inference_mode():
            torch.testing.assert_close(compiled(packed), model(packed))
