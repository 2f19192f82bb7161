"""What decoders of the family of Llama have in common when they are used as encoders."""

from collections.abc import Callable
from dataclasses import replace

from opengte.arch import config_values
from opengte.arch.bert import SPARSE, TOKENS
from opengte.arch.config_values import Config
from opengte.arch.plan import Attention, Embedding, FeedForward, Layer, Norm, Plan, ScoreHead
from opengte.arch.rope_scaling import rope_of
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


def decoder_plan(
    config: Config,
    name: str,
    *,
    causal: bool,
    windows: Callable[[int], int | None] = lambda index: None,
    qkv_bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    activation: tuple[str, str] = ("hidden_act", "silu"),
    eps: float = 1e-6,
    rope: bool = True,
    score: ScoreHead | None = None,
) -> Plan:
    """Return the plan of a decoder of the family of Llama.

    windows gives the number of tokens that a layer attends to at either side, or None. activation
    is a key of the config and its default, eps is the default of `rms_norm_eps`. score is the head
    of a sequence classifier, by default one row on the last token.
    """
    width = config_values.whole_number(config, "hidden_size")
    heads = config_values.whole_number(config, "num_attention_heads")
    norm = Norm("rms", config_values.number(config, "rms_norm_eps", eps), bias=False)
    head_dim = config_values.head_dim(config, width, heads)
    attention = Attention(
        heads=heads,
        kv_heads=config_values.kv_heads(config, heads),
        head_dim=head_dim,
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        causal=causal,
        rope=rope_of(config, head_dim) if rope else None,
        window=None,
        qk_norm=norm if qk_norm else None,
        logn=None,
    )
    ffn = FeedForward(
        inner=config_values.whole_number(config, "intermediate_size"),
        gated=True,
        activation=config_values.activation(config, *activation),
        up_bias=mlp_bias,
        down_bias=mlp_bias,
    )
    reach = [windows(i) for i in range(config_values.whole_number(config, "num_hidden_layers"))]
    if not causal and any(window is not None for window in reach):
        raise config_values.unsupported_value(
            config, "sliding_window", config["sliding_window"], "null where attention is not causal"
        )
    return Plan(
        architecture=name,
        embedding=_words(config, width),
        layers=tuple(
            Layer(False, norm, replace(attention, window=window), norm, ffn) for window in reach
        ),
        final_norm=norm,
        max_positions=config_values.whole_number(config, "max_position_embeddings", 32768),
        score=score or last_token_score(config),
    )


def _words(config: Config, width: int) -> Embedding:
    """Return word vectors alone: positions rotate, and there are no token types."""
    return Embedding(
        vocabulary=config_values.whole_number(config, "vocab_size"),
        width=width,
        positions=0,
        position_offset=0,
        types=0,
        norm=None,
    )


def is_causal(config: Config, default: bool = True) -> bool:
    """Return whether a token attends only to those before it; two keys can say that it does not."""
    both = config_values.flag(config, "use_bidirectional_attention", False)
    causal = config_values.flag(config, "is_causal", default and not both)
    if both and causal:
        raise config_values.unsupported_value(
            config, "is_causal", True, "false, as `use_bidirectional_attention` is true"
        )
    return causal


def last_token_score(config: Config) -> ScoreHead | None:
    """Return the head of a decoder saved as a sequence classifier: one row on the last token."""
    if not config_values.is_classifier(config):
        return None
    outputs = config_values.labels(config)
    return ScoreHead(pooling="last", dense=None, norm=None, outputs=outputs, bias=False)
