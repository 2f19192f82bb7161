"""The `new` architecture of gte-*-en-v1.5 and gte-multilingual-base (mGTE, arXiv 2407.19669).

It is BERT with rotary positions, gated feed-forward layers and packed projections. Some checkpoints
have the model type `gte` instead (snowflake-arctic-embed-m-v2.0).
"""

from opengte.arch import config_values
from opengte.arch.bert import TOKENS
from opengte.arch.config_values import Config
from opengte.arch.plan import (
    Attention,
    Dense,
    Embedding,
    FeedForward,
    Layer,
    LogN,
    Norm,
    Plan,
    Rope,
    ScoreHead,
)
from opengte.arch.tensors import SwappedParts, TensorNaming

NEW = TensorNaming(
    body={
        "embedding.word": ("embeddings.word_embeddings.weight",),
        "embedding.position": ("embeddings.position_embeddings.weight",),
        "embedding.token_type": ("embeddings.token_type_embeddings.weight",),
        "embedding.norm": ("embeddings.LayerNorm",),
        "layers.{i}.qkv": (
            "encoder.layer.{i}.attention.qkv_proj",
            (
                "encoder.layer.{i}.attention.q_proj",
                "encoder.layer.{i}.attention.k_proj",
                "encoder.layer.{i}.attention.v_proj",
            ),
        ),
        "layers.{i}.out": ("encoder.layer.{i}.attention.o_proj",),
        "layers.{i}.attention_norm": ("encoder.layer.{i}.attn_ln",),
        "layers.{i}.up": (SwappedParts("encoder.layer.{i}.mlp.up_gate_proj"),),
        "layers.{i}.down": ("encoder.layer.{i}.mlp.down_proj",),
        "layers.{i}.ffn_norm": ("encoder.layer.{i}.mlp_ln",),
        "score.dense": ("pooler.dense",),
    },
    heads={
        "sparse": ("classifier",),
        "score.out": ("classifier",),
        "tokens": TOKENS,
        "masked.dense": ("lm_head.dense",),
        "masked.norm": ("lm_head.norm",),
        "masked": ("lm_head.decoder.bias",),
    },
    prefixes=("new.", "gte.", ""),
    unused=(
        r"embeddings\.position_ids",
        r"pooler\.dense\.(weight|bias)",
        r"lm_head\..*",
        r".*rotary_emb\.(inv_freq|cos_cached|sin_cached)",
    ),
)


def new_plan(config: Config) -> Plan:
    """Return the plan of a `new` encoder, with the sparse or reranker head of its config."""
    width = config_values.whole_number(config, "hidden_size", 768)
    positions = config_values.whole_number(config, "max_position_embeddings", 2048)
    eps = config_values.number(config, "layer_norm_eps", 1e-12)
    config_values.one_of(config, "is_causal", (False,))
    rotary = config_values.one_of(config, "position_embedding_type", ("rope", "absolute")) == "rope"
    architectures = config.get("architectures") or ()
    return Plan(
        architecture="new",
        embedding=Embedding(
            vocabulary=config_values.whole_number(config, "vocab_size", 30528),
            width=width,
            positions=0 if rotary else positions,
            position_offset=0,
            types=config_values.whole_number(config, "type_vocab_size", 1, at_least=0),
            norm=Norm("layer", eps, bias=True),
        ),
        layers=(_layer(config, width, eps, _rope(config) if rotary else None, positions),)
        * config_values.whole_number(config, "num_hidden_layers", 12),
        final_norm=None,
        max_positions=positions,
        sparse=any(str(name).endswith("ForTokenClassification") for name in architectures),
        score=_score(config, width),
    )


def _rope(config: Config) -> Rope:
    parameters = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or parameters
    theta = config_values.number(
        {"rope_theta": parameters.get("rope_theta", config.get("rope_theta"))},
        "rope_theta",
        10000.0,
    )
    kind = scaling.get("type", scaling.get("rope_type", "default"))
    if kind == "default":
        return Rope(theta)
    if kind != "ntk":
        raise config_values.unsupported_value(
            config, "rope_scaling", scaling, 'null or of type "ntk"'
        )
    mixed_b = scaling.get("mixed_b")
    return Rope(
        theta, config_values.number(scaling, "factor"), None if mixed_b is None else mixed_b
    )


def _layer(config: Config, width: int, eps: float, rope: Rope | None, positions: int) -> Layer:
    heads = config_values.whole_number(config, "num_attention_heads", 12)
    kind = config_values.one_of(config, "layer_norm_type", ("layer_norm", "rms_norm"))
    norm = Norm("layer", eps, bias=True) if kind == "layer_norm" else Norm("rms", eps, bias=False)
    logn = config_values.flag(config, "logn_attention_scale", False)
    clip = config_values.flag(config, "logn_attention_clip1", False)
    return Layer(
        post_norm=True,
        attention_norm=norm,
        attention=Attention(
            heads=heads,
            kv_heads=heads,
            head_dim=config_values.head_dim(config, width, heads),
            qkv_bias=True,
            out_bias=True,
            causal=False,
            rope=rope,
            window=None,
            qk_norm=None,
            logn=LogN(positions, clip) if logn else None,
        ),
        ffn_norm=norm,
        ffn=FeedForward(
            inner=config_values.whole_number(config, "intermediate_size", 3072),
            gated=True,
            activation=config_values.activation(config, "hidden_act", "gelu"),
            up_bias=False,
            down_bias=True,
        ),
    )


def _score(config: Config, width: int) -> ScoreHead | None:
    if not config_values.is_classifier(config):
        return None
    dense = Dense(width, bias=True, activation="tanh")
    labels = config_values.labels(config)
    return ScoreHead(pooling="cls", dense=dense, norm=None, outputs=labels, bias=True)
