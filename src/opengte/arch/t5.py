"""The encoder of T5 (arXiv 1910.10683): sentence-t5, gtr-t5, instructor."""

from opengte.arch import config_values
from opengte.arch.bert import SPARSE, TOKENS
from opengte.arch.config_values import Config
from opengte.arch.plan import (
    Activation,
    Attention,
    BucketBias,
    Embedding,
    FeedForward,
    Layer,
    Norm,
    Plan,
)
from opengte.arch.tensors import TensorNaming

_BLOCK = "encoder.block.{i}.layer"

T5 = TensorNaming(
    body={
        "embedding.word": ("shared.weight", "encoder.embed_tokens.weight"),
        "position_bias": ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
        "layers.{i}.attention_norm": (f"{_BLOCK}.0.layer_norm",),
        "layers.{i}.qkv": (
            (
                f"{_BLOCK}.0.SelfAttention.q",
                f"{_BLOCK}.0.SelfAttention.k",
                f"{_BLOCK}.0.SelfAttention.v",
            ),
        ),
        "layers.{i}.out": (f"{_BLOCK}.0.SelfAttention.o",),
        "layers.{i}.ffn_norm": (f"{_BLOCK}.1.layer_norm",),
        "layers.{i}.up": (
            (f"{_BLOCK}.1.DenseReluDense.wi_0", f"{_BLOCK}.1.DenseReluDense.wi_1"),
            f"{_BLOCK}.1.DenseReluDense.wi",
        ),
        "layers.{i}.down": (f"{_BLOCK}.1.DenseReluDense.wo",),
        "final_norm": ("encoder.final_layer_norm",),
    },
    heads={"sparse": SPARSE, "tokens": TOKENS},
    prefixes=("",),
    unused=(r"decoder\..*", r"lm_head\.weight", r"encoder\.embed_tokens\.weight"),
)


def t5_plan(config: Config) -> Plan:
    """Return the plan of T5's encoder: RMSNorm before each part, no biases, a table of distances.

    Scores are not divided by the square root of the head dimension.
    """
    config_values.one_of(config, "is_encoder_decoder", (True, False))
    width = config_values.whole_number(config, "d_model", 512)
    heads = config_values.whole_number(config, "num_heads", 8)
    norm = Norm("rms", config_values.number(config, "layer_norm_epsilon", 1e-6), bias=False)
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=config_values.whole_number(config, "d_kv", 64),
        qkv_bias=False,
        out_bias=False,
        causal=False,
        rope=None,
        window=None,
        qk_norm=None,
        logn=None,
        scale=1.0,
    )
    gated, activation = _activation(config)
    ffn = FeedForward(
        inner=config_values.whole_number(config, "d_ff", 2048),
        gated=gated,
        activation=activation,
        up_bias=False,
        down_bias=False,
    )
    return Plan(
        architecture="t5",
        embedding=Embedding(
            vocabulary=config_values.whole_number(config, "vocab_size", 32128),
            width=width,
            positions=0,
            position_offset=0,
            types=0,
            norm=None,
        ),
        layers=(Layer(False, norm, attention, norm, ffn),)
        * config_values.whole_number(config, "num_layers", 6),
        final_norm=norm,
        max_positions=config_values.whole_number(config, "n_positions", 512),
        position_bias=BucketBias(
            config_values.whole_number(config, "relative_attention_num_buckets", 32),
            config_values.whole_number(config, "relative_attention_max_distance", 128),
        ),
    )


def _activation(config: Config) -> tuple[bool, Activation]:
    """Return whether the feed-forward layer is gated, and its activation."""
    name = config_values.one_of(config, "feed_forward_proj", ("relu", "gated-gelu", "gated-silu"))
    gated = name.startswith("gated-")
    # as in transformers, `gated-gelu` is the approximation by tanh
    activation = "gelu_new" if name == "gated-gelu" else name.removeprefix("gated-")
    return gated, config_values.activation({"dense_act_fn": activation}, "dense_act_fn", "relu")
