"""Decoders used as encoders: gte-Qwen1.5, gte-Qwen2, Qwen3-Embedding, e5-mistral."""

from dataclasses import replace

from opengte.arch import config_values
from opengte.arch.bert import SPARSE, TOKENS
from opengte.arch.config_values import Config
from opengte.arch.plan import Attention, Embedding, FeedForward, Layer, Norm, Plan, ScoreHead
from opengte.arch.tensors import TensorNaming, TensorRows

BODY: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "embedding.word": ("embed_tokens.weight",),
    "layers.{i}.attention_norm": ("layers.{i}.input_layernorm",),
    "layers.{i}.qkv": (
        (
            "layers.{i}.self_attn.q_proj",
            "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
    ),
    "layers.{i}.q_norm": ("layers.{i}.self_attn.q_norm",),
    "layers.{i}.k_norm": ("layers.{i}.self_attn.k_norm",),
    "layers.{i}.out": ("layers.{i}.self_attn.o_proj",),
    "layers.{i}.ffn_norm": ("layers.{i}.post_attention_layernorm",),
    "layers.{i}.up": (("layers.{i}.mlp.gate_proj", "layers.{i}.mlp.up_proj"),),
    "layers.{i}.down": ("layers.{i}.mlp.down_proj",),
    "final_norm": ("norm",),
}

DECODER = TensorNaming(
    body=BODY,
    heads={"score.out": ("score",), "sparse": SPARSE, "tokens": TOKENS},
    prefixes=("model.", "language_model.", ""),
    unused=(r"lm_head\.weight", r".*rotary_emb\.inv_freq"),
)


def qwen2_plan(config: Config) -> Plan:
    """Return the plan of a Qwen2 decoder, which has biases on queries, keys and values.

    It is bidirectional if the config has `is_causal: false` or `use_bidirectional_attention`, or
    if, as in the gte-Qwen checkpoints, its `auto_map` names code that makes it so.
    """
    code = str((config.get("auto_map") or {}).get("AutoModel", ""))
    causal = _causal(config, not code.endswith("modeling_qwen.Qwen2Model"))
    return _plan(config, "qwen2", qkv_bias=True, qk_norm=False, causal=causal, theta=1e4)


def qwen3_plan(config: Config) -> Plan:
    """Return the plan of a Qwen3 decoder, which has an RMSNorm on the heads of queries and keys."""
    bias = config_values.flag(config, "attention_bias", False)
    causal = _causal(config)
    return _plan(config, "qwen3", qkv_bias=bias, qk_norm=True, causal=causal, theta=1e4)


def mistral_plan(config: Config) -> Plan:
    """Return the plan of a Mistral decoder: no biases, a sliding window if the config has one."""
    causal = _causal(config)
    return _plan(config, "mistral", qkv_bias=False, qk_norm=False, causal=causal, theta=1e4)


def with_yes_no_head(plan: Plan, yes: int, no: int) -> Plan:
    """Add the head of a reranker whose score is the probability of "yes", against "no"."""
    head = ScoreHead(
        pooling="last", dense=None, norm=None, outputs=2, bias=False, vocabulary_rows=(yes, no)
    )
    return replace(plan, score=head)


def yes_no_naming(rows: tuple[int, ...]) -> TensorNaming:
    """Return the names of the vocabulary rows, tied or not, that the yes/no head reads."""
    output = (
        TensorRows("lm_head.weight", rows),
        TensorRows("model.embed_tokens.weight", rows),
        TensorRows("embed_tokens.weight", rows),
    )
    return replace(DECODER, heads={"score.out": output})


def _plan(
    config: Config, name: str, qkv_bias: bool, qk_norm: bool, causal: bool, theta: float
) -> Plan:
    width = config_values.whole_number(config, "hidden_size")
    heads = config_values.whole_number(config, "num_attention_heads")
    norm = Norm("rms", config_values.number(config, "rms_norm_eps", 1e-6), bias=False)
    attention = Attention(
        heads=heads,
        kv_heads=_kv_heads(config, heads),
        head_dim=config_values.head_dim(config, width, heads),
        qkv_bias=qkv_bias,
        out_bias=qkv_bias
        and name == "qwen3",  # Qwen2 has none, even though its projections have biases
        causal=causal,
        rope=config_values.rope(config, theta),
        window=None,
        qk_norm=norm if qk_norm else None,
        logn=None,
    )
    ffn = FeedForward(
        inner=config_values.whole_number(config, "intermediate_size"),
        gated=True,
        activation=config_values.activation(config, "hidden_act", "silu"),
        up_bias=False,
        down_bias=False,
    )
    layers = config_values.whole_number(config, "num_hidden_layers")
    windows = [_window(config, name, i) for i in range(layers)]
    if not causal and any(windows):
        raise config_values.unsupported_value(
            config, "sliding_window", config["sliding_window"], "null where attention is not causal"
        )
    return Plan(
        architecture=name,
        embedding=Embedding(
            vocabulary=config_values.whole_number(config, "vocab_size"),
            width=width,
            positions=0,
            position_offset=0,
            types=0,
            norm=None,
        ),
        layers=tuple(
            Layer(False, norm, replace(attention, window=window), norm, ffn) for window in windows
        ),
        final_norm=norm,
        max_positions=config_values.whole_number(config, "max_position_embeddings", 32768),
        score=_score(config),
    )


def _causal(config: Config, default: bool = True) -> bool:
    """Return whether a token attends only to those before it; two keys can say that it does not."""
    both = config_values.flag(config, "use_bidirectional_attention", False)
    causal = config_values.flag(config, "is_causal", default and not both)
    if both and causal:
        raise config_values.unsupported_value(
            config, "is_causal", True, "false, as `use_bidirectional_attention` is true"
        )
    return causal


def _score(config: Config) -> ScoreHead | None:
    """Return the head of a decoder saved as a sequence classifier: one row on the last token."""
    if not config_values.is_classifier(config):
        return None
    outputs = config_values.labels(config)
    return ScoreHead(pooling="last", dense=None, norm=None, outputs=outputs, bias=False)


def _kv_heads(config: Config, heads: int) -> int:
    kv_heads = config_values.whole_number(config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise config_values.unsupported_value(
            config, "num_key_value_heads", kv_heads, f"a divisor of the {heads} query heads"
        )
    return kv_heads


def _window(config: Config, name: str, index: int) -> int | None:
    """Return how many tokens back a layer attends; a sliding window includes the token itself."""
    sliding = config.get("sliding_window")
    if sliding is None:
        return None
    if name != "mistral":  # Qwen: off by default; if on, then from a certain layer
        if not config_values.flag(config, "use_sliding_window", False):
            return None
        kinds = config.get("layer_types")
        if isinstance(kinds, list) and len(kinds) > index:
            if kinds[index] != "sliding_attention":
                return None
        elif index < config_values.whole_number(config, "max_window_layers", 28, at_least=0):
            return None
    return config_values.whole_number(config, "sliding_window") - 1
