"""Small random networks for the tests of the CPU engine: each shows one mechanism."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from opengte.arch.plan import (
    Attention,
    BucketBias,
    Dense,
    Embedding,
    FeedForward,
    LatentAttention,
    Layer,
    LinearBias,
    LogN,
    Norm,
    Plan,
    Rope,
    ScoreHead,
)
from opengte.types import PackedBatch
from opengte.weights import WeightChunk

VOCABULARY = 97
LAYER_NORM = Norm("layer", 1e-12, bias=True)
RMS = Norm("rms", 1e-6, bias=False)


def bert(width: int = 48, heads: int = 3, layers: int = 2, **changes: Any) -> Plan:
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=changes.pop("head_dim", width // heads),
        qkv_bias=True,
        out_bias=True,
        causal=False,
        rope=None,
        window=None,
        qk_norm=None,
        logn=None,
    )
    layer = Layer(
        post_norm=True,
        attention_norm=LAYER_NORM,
        attention=attention,
        ffn_norm=LAYER_NORM,
        ffn=FeedForward(2 * width + 9, False, "gelu", up_bias=True, down_bias=True),
    )
    plan = Plan(
        architecture="test",
        embedding=Embedding(VOCABULARY, width, 600, 2, 2, LAYER_NORM),
        layers=(layer,) * layers,
        final_norm=None,
        max_positions=598,
        pooling="mean",
    )
    return replace(plan, **changes)


def with_attention(plan: Plan, **changes: Any) -> Plan:
    layers = (replace(x, attention=replace(x.attention, **changes)) for x in plan.layers)
    return replace(plan, layers=tuple(layers))


def with_ffn(plan: Plan, **changes: Any) -> Plan:
    return replace(
        plan, layers=tuple(replace(x, ffn=replace(x.ffn, **changes)) for x in plan.layers)
    )


def rope_only(plan: Plan, rope: Rope) -> Plan:
    plain = replace(plan.embedding, positions=0, position_offset=0, types=0)
    return with_attention(replace(plan, embedding=plain, max_positions=8192), rope=rope)


def decoder(**attention: Any) -> Plan:
    plan = rope_only(bert(64, 4, head_dim=16), Rope(10000.0))
    layer = replace(plan.layers[0], post_norm=False, attention_norm=RMS, ffn_norm=RMS)
    plan = replace(
        plan,
        embedding=replace(plan.embedding, norm=None),
        layers=(layer,) * 2,
        final_norm=RMS,
        pooling="last",
    )
    plan = with_ffn(plan, inner=88, gated=True, activation="silu", up_bias=False, down_bias=False)
    return with_attention(plan, **({"kv_heads": 2, "out_bias": False} | attention))


def modernbert() -> Plan:
    plan = rope_only(bert(64, 2, layers=3), Rope(160000.0))
    norm = Norm("layer", 1e-5, bias=False)
    local: dict[str, Any] = {"window": 5, "rope": Rope(10000.0)}
    layers = [
        replace(layer, post_norm=False, attention_norm=norm if i else None, ffn_norm=norm)
        for i, layer in enumerate(plan.layers)
    ]
    layers[1] = replace(layers[1], attention=replace(layers[1].attention, **local))
    plan = replace(plan, layers=tuple(layers), final_norm=norm, pooling="cls")
    return with_ffn(plan, gated=True, up_bias=False, down_bias=False)


def t5(heads: int = 3) -> Plan:
    plan = decoder(heads=heads, kv_heads=heads, causal=False, rope=None, scale=0.4, qkv_bias=False)
    return replace(plan, max_positions=300, position_bias=BucketBias(32, 128))


def gemma(causal: bool) -> Plan:
    plan = decoder(causal=causal, qk_norm=RMS, qkv_bias=False, scale=0.3)
    layers = [replace(x, attention_out_norm=RMS, ffn_out_norm=LAYER_NORM) for x in plan.layers]
    layers[1] = replace(layers[1], attention=replace(layers[1].attention, window=9))
    return replace(plan, layers=tuple(layers), embedding=replace(plan.embedding, scale=1.5))


PLANS: dict[str, Plan] = {
    "bert": bert(),
    "one head": bert(64, 1),
    "heads of 32": bert(96, 3),
    "heads of 80": bert(160, 2),
    "heads of 128": bert(256, 2),
    "odd heads": bert(45, 3),
    "heads wider than the state": bert(40, 5, head_dim=32),
    "cls": bert(pooling="cls"),
    "last": bert(pooling="last"),
    "gelu_tanh": with_ffn(bert(), activation="gelu_tanh"),
    "relu": with_ffn(bert(), activation="relu"),
    "silu": with_ffn(bert(), activation="silu"),
    "gated": with_ffn(bert(), gated=True),
    "rope": rope_only(bert(64, 2), Rope(10000.0)),
    "ntk": rope_only(bert(64, 2), Rope(20000.0, ntk_factor=8.0)),
    "mixed ntk": rope_only(bert(64, 2), Rope(20000.0, ntk_factor=8.0, mixed_b=0.625)),
    "log-n": with_attention(bert(), logn=LogN(64, at_least_one=False)),
    "log-n clipped": with_attention(bert(), logn=LogN(64, at_least_one=True)),
    "causal": with_attention(bert(), causal=True),
    "window": with_attention(bert(), window=7),
    "causal window": with_attention(bert(), causal=True, window=300),
    "shared keys": with_attention(bert(64, 4), kv_heads=2),
    "qk-norm": with_attention(rope_only(bert(64, 2), Rope(1e6)), qk_norm=RMS),
    "qk-layer-norm": with_attention(bert(64, 2), qk_norm=LAYER_NORM),
    "decoder": decoder(causal=False, qkv_bias=True),
    "causal decoder": decoder(causal=True, qkv_bias=False, qk_norm=RMS),
    "modernbert": modernbert(),
    "latent": replace(
        decoder(),
        pooling="latent",
        latent=LatentAttention(
            latents=37, latent_width=40, heads=2, head_dim=64, inner=72, eps=1e-5
        ),
    ),
    "position buckets": bert(position_bias=BucketBias(32, 128)),
    "position buckets, few": bert(96, 6, position_bias=BucketBias(8, 20)),
    "alibi": rope_only(bert(64, 4, position_bias=LinearBias()), Rope(1e4)),
    "alibi of five heads": with_attention(
        bert(40, 5, position_bias=LinearBias()), causal=True, window=50
    ),
    "t5": t5(),
    "gemma": gemma(causal=False),
    "causal gemma": gemma(causal=True),
    "magnitude": rope_only(bert(64, 2), Rope(1e4, frequencies=(0.5,) * 16, magnitude=1.2)),
    "projections": bert(dense=(Dense(70, True, "tanh"), Dense(20, False, "identity"))),
}

SCORES: dict[str, Plan] = {
    "classifier": bert(
        pooling=None, score=ScoreHead("cls", Dense(48, True, "tanh"), None, 1, bias=True)
    ),
    "normed": bert(
        pooling=None, score=ScoreHead("mean", Dense(48, False, "gelu"), LAYER_NORM, 1, bias=True)
    ),
    "yes or no": replace(
        decoder(causal=True),
        pooling=None,
        score=ScoreHead("last", None, None, 2, bias=False, vocabulary_rows=(3, 4)),
    ),
}


def weights(plan: Plan, seed: int = 0) -> Iterator[WeightChunk]:
    """Yield a plan's slots with random values that keep states near unit size."""
    generator = np.random.default_rng(seed)
    for name, slot in plan.slots().items():
        x = generator.standard_normal(slot.shape)
        if name.endswith(".bias"):
            x *= 0.3
        elif len(slot.shape) == 1:
            x = 1 + 0.3 * x
        elif name.split(".")[0] != "embedding" and name != "latent.latents":
            x /= slot.shape[-1] ** 0.5
        yield WeightChunk(name, 0, x.astype(np.float32), "F32")


def batch(lengths: Sequence[int], seed: int = 1, skip: int = 0) -> PackedBatch:
    """Return random sequences of the given lengths; those longer pool from token `skip`."""
    generator = np.random.default_rng(seed)
    cu_seqlens = np.cumsum([0, *lengths], dtype=np.int32)
    total = int(cu_seqlens[-1])
    ids = generator.integers(0, VOCABULARY, total, dtype=np.int32)
    types = generator.integers(0, 2, total, dtype=np.int32)
    pool_from = np.array([skip if n > skip else 0 for n in lengths], dtype=np.int32)
    return PackedBatch(ids, cu_seqlens, types, pool_from)
