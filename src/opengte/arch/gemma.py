"""Gemma 3, text only: EmbeddingGemma, harrier, BidirLM, KaLM-Gemma3."""

import math
from dataclasses import replace

from opengte.arch import config_values
from opengte.arch.config_values import Config
from opengte.arch.decoder import BODY, DECODER, decoder_plan, is_causal
from opengte.arch.plan import Layer, Plan, Rope
from opengte.arch.rope_scaling import scaled_rope
from opengte.arch.tensors import OneLess, TensorNaming

GEMMA = TensorNaming(
    body={
        **BODY,
        "layers.{i}.attention_norm": (OneLess("layers.{i}.input_layernorm"),),
        "layers.{i}.q_norm": (OneLess("layers.{i}.self_attn.q_norm"),),
        "layers.{i}.k_norm": (OneLess("layers.{i}.self_attn.k_norm"),),
        "layers.{i}.attention_out_norm": (OneLess("layers.{i}.post_attention_layernorm"),),
        "layers.{i}.ffn_norm": (OneLess("layers.{i}.pre_feedforward_layernorm"),),
        "layers.{i}.ffn_out_norm": (OneLess("layers.{i}.post_feedforward_layernorm"),),
        "final_norm": (OneLess("norm"),),
    },
    heads=DECODER.heads,
    prefixes=("model.", "language_model.", ""),
    unused=DECODER.unused,
)
GLOBAL_THETA, LOCAL_THETA = 1e6, 1e4


def gemma3_plan(config: Config) -> Plan:
    """Return the plan of a Gemma 3 decoder, bidirectional with `use_bidirectional_attention`.

    It has norms before and after attention and feed-forward, embeddings times sqrt(width), and a
    rotary embedding of its own in layers with a sliding window.
    """
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        config_values.one_of(config, name, (None,))
    bias = config_values.flag(config, "attention_bias", False)
    plan = decoder_plan(
        config,
        "gemma3_text",
        causal=is_causal(config),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
        activation=("hidden_activation", "gelu_pytorch_tanh"),
        rope=False,
    )
    for slides in (True, False):  # read also where no layer is of that kind
        _rope(config, slides, plan.layers[0].attention.head_dim)
    layers = tuple(_layer(config, layer, i) for i, layer in enumerate(plan.layers))
    # transformers rounds the factor to the dtype of the weights, which matters in bfloat16 only
    embedding = replace(plan.embedding, scale=math.sqrt(plan.width))
    return replace(plan, layers=layers, embedding=embedding)


def _layer(config: Config, layer: Layer, index: int) -> Layer:
    slides, causal = _slides(config, index), layer.attention.causal
    window = None
    if slides:
        sliding = config_values.whole_number(config, "sliding_window", 4096)
        # a causal window includes the token itself; the other one has half of it at either side
        window = sliding - 1 if causal else sliding // 2
    attention = replace(
        layer.attention,
        rope=_rope(config, slides, layer.attention.head_dim),
        window=window,
        scale=config_values.number(config, "query_pre_attn_scalar", 256.0) ** -0.5,
    )
    norm = layer.ffn_norm
    return replace(layer, attention=attention, attention_out_norm=norm, ffn_out_norm=norm)


def _slides(config: Config, index: int) -> bool:
    kinds = config.get("layer_types")
    pattern = config.get("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
    if kinds is None:
        return bool((index + 1) % config_values.whole_number({"p": pattern}, "p"))
    if index >= len(kinds) or kinds[index] not in ("full_attention", "sliding_attention"):
        raise config_values.unsupported_value(
            config, "layer_types", kinds, "full_attention or sliding_attention for every layer"
        )
    return bool(kinds[index] == "sliding_attention")


def _rope(config: Config, slides: bool, head_dim: int) -> Rope:
    parameters = config.get("rope_parameters") or {}
    kind, old, default = (
        ("sliding_attention", "rope_local_base_freq", LOCAL_THETA)
        if slides
        else ("full_attention", "rope_theta", GLOBAL_THETA)
    )
    own = parameters.get(kind) or {}
    # older configs scale the global layers only
    scaling = own or ({} if slides else config.get("rope_scaling") or {})
    theta = config_values.number({old: own.get("rope_theta", config.get(old))}, old, default)
    positions = config_values.whole_number(config, "max_position_embeddings", 131072)
    return scaled_rope(config, theta, scaling, head_dim, positions)
