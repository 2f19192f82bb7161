"""ModernBERT (arXiv 2412.13663): gte-modernbert-base, gte-reranker-modernbert-base."""

from opengte.arch import settings
from opengte.arch.bert import SPARSE, TOKENS
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
from opengte.arch.settings import Config
from opengte.arch.tensors import Naming

MODERNBERT = Naming(
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


def modernbert(config: Config) -> Plan:
    """Describe a ModernBERT encoder, or its sequence classifier."""
    width = settings.count(config, "hidden_size", 768)
    layers = settings.count(config, "num_hidden_layers", 22)
    eps = settings.number(config, "norm_eps", 1e-5)
    norm = Norm("layer", eps, settings.flag(config, "norm_bias", False))
    return Plan(
        architecture="modernbert",
        embedding=Embedding(
            vocabulary=settings.count(config, "vocab_size", 50368),
            width=width,
            positions=0,
            position_offset=0,
            types=0,
            norm=norm,
        ),
        layers=tuple(_layer(config, width, norm, i) for i in range(layers)),
        final_norm=norm,
        max_positions=settings.count(config, "max_position_embeddings", 8192),
        score=_score(config, width, norm),
    )


def _layer(config: Config, width: int, norm: Norm, index: int) -> Layer:
    heads = settings.count(config, "num_attention_heads", 12)
    attention_bias = settings.flag(config, "attention_bias", False)
    mlp_bias = settings.flag(config, "mlp_bias", False)
    return Layer(
        post_norm=False,
        attention_norm=None if index == 0 else norm,  # the embedding is normalised already
        attention=Attention(
            heads=heads,
            kv_heads=heads,
            head_dim=settings.head_dim(config, width, heads),
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
            inner=settings.count(config, "intermediate_size", 1152),
            gated=True,
            activation=settings.activation(config, "hidden_activation", "gelu"),
            up_bias=mlp_bias,
            down_bias=mlp_bias,
        ),
    )


def _is_global(config: Config, index: int) -> bool:
    kinds = config.get("layer_types")
    if kinds is not None:
        if index >= len(kinds) or kinds[index] not in ("full_attention", "sliding_attention"):
            raise settings.unsupported(
                config, "layer_types", kinds, "full_attention or sliding_attention for every layer"
            )
        return bool(kinds[index] == "full_attention")
    return index % settings.count(config, "global_attn_every_n_layers", 3) == 0


def _window(config: Config) -> int:
    return settings.count(config, "local_attention", 128) // 2


def _rope(config: Config, is_global: bool) -> Rope:
    kind = "full_attention" if is_global else "sliding_attention"
    parameters = (config.get("rope_parameters") or {}).get(kind) or {}
    if parameters.get("rope_type", "default") != "default":
        raise settings.unsupported(config, "rope_parameters", parameters, "no scaling")
    theta = parameters.get("rope_theta")
    if theta is None and is_global:
        theta = settings.number(config, "global_rope_theta", 160000.0)
    elif theta is None:
        theta = settings.number(config, "local_rope_theta", 10000.0)
    return Rope(settings.number({"rope_theta": theta}, "rope_theta"))


def _score(config: Config, width: int, norm: Norm) -> ScoreHead | None:
    if not settings.is_classifier(config):
        return None
    dense = Dense(
        width,
        settings.flag(config, "classifier_bias", False),
        settings.activation(config, "classifier_activation", "gelu"),
    )
    return ScoreHead(
        pooling=settings.one_of(config, "classifier_pooling", ("cls", "mean")),
        dense=dense,
        norm=norm,
        outputs=settings.labels(config),
        bias=True,
    )
