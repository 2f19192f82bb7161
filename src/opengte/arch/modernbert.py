"""ModernBERT (arXiv 2412.13663): gte-modernbert-base, gte-reranker-modernbert-base."""

from opengte.arch import config_values
from opengte.arch.bert import SPARSE, TOKENS
from opengte.arch.config_values import Config
from opengte.arch.plan import (
    Attention,
    Dense,
    Embedding,
    FeedForward,
    Layer,
    Norm,
    Plan,
    Rope,
    ScoreHead,
)
from opengte.arch.tensors import TensorNaming

MODERNBERT = TensorNaming(
    body={
        "embedding.word": ("embeddings.tok_embeddings.weight",),
        "embedding.norm": ("embeddings.norm",),
        "layers.{i}.attention_norm": ("layers.{i}.attn_norm",),
        "layers.{i}.qkv": ("layers.{i}.attn.Wqkv",),
        "layers.{i}.out": ("layers.{i}.attn.Wo",),
        "layers.{i}.ffn_norm": ("layers.{i}.mlp_norm",),
        "layers.{i}.up": ("layers.{i}.mlp.Wi",),
        "layers.{i}.down": ("layers.{i}.mlp.Wo",),
        "final_norm": ("final_norm",),
    },
    heads={
        "score.dense": ("head.dense",),
        "score.norm": ("head.norm",),
        "score.out": ("classifier",),
        "sparse": SPARSE,
        "tokens": TOKENS,
        "masked.dense": ("head.dense",),
        "masked.norm": ("head.norm",),
        "masked": ("decoder.bias",),
    },
    prefixes=("model.", ""),
    unused=(r"head\..*", r"decoder\..*"),
)


def modernbert_plan(config: Config) -> Plan:
    """Return the plan of a ModernBERT encoder, or of its sequence classifier."""
    config_values.one_of(config, "is_causal", (False,))
    width = config_values.whole_number(config, "hidden_size", 768)
    layers = config_values.whole_number(config, "num_hidden_layers", 22)
    for is_global in (True, False):  # read also where no layer is of that kind
        _rope(config, is_global)
    eps = config_values.number(config, "norm_eps", 1e-5)
    norm = Norm("layer", eps, config_values.flag(config, "norm_bias", False))
    return Plan(
        architecture="modernbert",
        embedding=Embedding(
            vocabulary=config_values.whole_number(config, "vocab_size", 50368),
            width=width,
            positions=0,
            position_offset=0,
            types=0,
            norm=norm,
        ),
        layers=tuple(_layer(config, width, norm, i) for i in range(layers)),
        final_norm=norm,
        max_positions=config_values.whole_number(config, "max_position_embeddings", 8192),
        score=_score(config, width, norm),
    )


def _layer(config: Config, width: int, norm: Norm, index: int) -> Layer:
    heads = config_values.whole_number(config, "num_attention_heads", 12)
    attention_bias = config_values.flag(config, "attention_bias", False)
    mlp_bias = config_values.flag(config, "mlp_bias", False)
    return Layer(
        post_norm=False,
        attention_norm=None if index == 0 else norm,  # the embedding is already normalised
        attention=Attention(
            heads=heads,
            kv_heads=heads,
            head_dim=config_values.head_dim(config, width, heads),
            qkv_bias=attention_bias,
            out_bias=attention_bias,
            causal=False,
            rope=_rope(config, _is_global(config, index)),
            window=None if _is_global(config, index) else _window(config),
            qk_norm=None,
            logn=None,
        ),
        ffn_norm=norm,
        ffn=FeedForward(
            inner=config_values.whole_number(config, "intermediate_size", 1152),
            gated=True,
            activation=config_values.activation(config, "hidden_activation", "gelu"),
            up_bias=mlp_bias,
            down_bias=mlp_bias,
        ),
    )


def _is_global(config: Config, index: int) -> bool:
    kinds = config.get("layer_types")
    if kinds is not None:
        if index >= len(kinds) or kinds[index] not in ("full_attention", "sliding_attention"):
            raise config_values.unsupported_value(
                config, "layer_types", kinds, "full_attention or sliding_attention for every layer"
            )
        return bool(kinds[index] == "full_attention")
    return index % config_values.whole_number(config, "global_attn_every_n_layers", 3) == 0


def _window(config: Config) -> int:
    return config_values.whole_number(config, "local_attention", 128) // 2


def _rope(config: Config, is_global: bool) -> Rope:
    kind = "full_attention" if is_global else "sliding_attention"
    parameters = (config.get("rope_parameters") or {}).get(kind) or {}
    if parameters.get("rope_type", "default") != "default":
        raise config_values.unsupported_value(config, "rope_parameters", parameters, "no scaling")
    theta = parameters.get("rope_theta")
    if theta is None and is_global:
        theta = config_values.number(config, "global_rope_theta", 160000.0)
    elif theta is None:
        theta = config_values.number(config, "local_rope_theta", 10000.0)
    return Rope(config_values.number({"rope_theta": theta}, "rope_theta"))


def _score(config: Config, width: int, norm: Norm) -> ScoreHead | None:
    if not config_values.is_classifier(config):
        return None
    dense = Dense(
        width,
        config_values.flag(config, "classifier_bias", False),
        config_values.activation(config, "classifier_activation", "gelu"),
    )
    return ScoreHead(
        pooling=config_values.one_of(config, "classifier_pooling", ("cls", "mean")),
        dense=dense,
        norm=norm,
        outputs=config_values.labels(config),
        bias=True,
    )
