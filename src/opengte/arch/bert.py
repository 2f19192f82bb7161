"""BERT (arXiv 1810.04805), RoBERTa and XLM-R (arXiv 1911.02116): gte v1, BGE, E5, MiniLM."""

from dataclasses import replace

from opengte.arch import config_values
from opengte.arch.config_values import Config
from opengte.arch.plan import Attention, Dense, Embedding, FeedForward, Layer, Norm, Plan, ScoreHead
from opengte.arch.tensors import TensorNaming

# heads in side files; the pickles are those of bge-m3
SPARSE = ("sparse_linear.safetensors:", "sparse_linear.pt:")
TOKENS = ("colbert_linear.safetensors:", "colbert_linear.pt:")

BERT = TensorNaming(
    body={
        "embedding.word": ("embeddings.word_embeddings.weight",),
        "embedding.position": ("embeddings.position_embeddings.weight",),
        "embedding.token_type": ("embeddings.token_type_embeddings.weight",),
        "embedding.norm": ("embeddings.LayerNorm",),
        "layers.{i}.qkv": (
            (
                "encoder.layer.{i}.attention.self.query",
                "encoder.layer.{i}.attention.self.key",
                "encoder.layer.{i}.attention.self.value",
            ),
        ),
        "layers.{i}.out": ("encoder.layer.{i}.attention.output.dense",),
        "layers.{i}.attention_norm": ("encoder.layer.{i}.attention.output.LayerNorm",),
        "layers.{i}.up": ("encoder.layer.{i}.intermediate.dense",),
        "layers.{i}.down": ("encoder.layer.{i}.output.dense",),
        "layers.{i}.ffn_norm": ("encoder.layer.{i}.output.LayerNorm",),
        "score.dense": ("pooler.dense",),
    },
    heads={
        "score.out": ("classifier",),
        "sparse": SPARSE,
        "tokens": TOKENS,
        "masked.dense": ("cls.predictions.transform.dense",),
        "masked.norm": ("cls.predictions.transform.LayerNorm",),
        "masked": ("cls.predictions.bias",),
    },
    prefixes=("bert.", "roberta.", "model.", ""),
    unused=(
        r"embeddings\.position_ids",
        r"pooler\.dense\.(weight|bias)",
        r"cls\..*",
        r"lm_head\..*",
    ),
)

# RoBERTa's classifier has its dense layer among the heads
ROBERTA = replace(
    BERT,
    body={slot: names for slot, names in BERT.body.items() if slot != "score.dense"},
    heads={
        "score.dense": ("classifier.dense",),
        "score.out": ("classifier.out_proj",),
        "sparse": SPARSE,
        "tokens": TOKENS,
        "masked.dense": ("lm_head.dense",),
        "masked.norm": ("lm_head.layer_norm",),
        "masked": ("lm_head.bias",),
    },
)


def bert_plan(config: Config) -> Plan:
    """Return the plan of a BERT encoder, or of its sequence classifier with a tanh pooler."""
    return bert_body(config, "bert", position_offset=0)


def roberta_plan(config: Config) -> Plan:
    """Return the plan of a RoBERTa, XLM-R or CamemBERT encoder, or of its sequence classifier.

    Positions start after the padding index.
    """
    first = config_values.whole_number(config, "pad_token_id", 1, at_least=0) + 1
    return bert_body(config, "xlm-roberta", first)


def bert_body(
    config: Config,
    name: str,
    position_offset: int,
    types: int | None = None,
    position_kind: str = "absolute",
) -> Plan:
    """Return the plan of a network with BERT's settings.

    types overrides `type_vocab_size`; position_kind is what `position_embedding_type` must be.
    """
    config_values.one_of(config, "position_embedding_type", (position_kind,))
    config_values.one_of(config, "is_decoder", (False,))
    config_values.one_of(config, "is_causal", (False,))
    width = config_values.whole_number(config, "hidden_size", 768)
    norm = Norm("layer", config_values.number(config, "layer_norm_eps", 1e-12), bias=True)
    positions = config_values.whole_number(config, "max_position_embeddings", 512)
    if types is None:
        types = config_values.whole_number(config, "type_vocab_size", 2, at_least=0)
    layer = _layer(config, width, norm)
    return Plan(
        architecture=name,
        embedding=Embedding(
            vocabulary=config_values.whole_number(config, "vocab_size"),
            width=width,
            positions=positions,
            position_offset=position_offset,
            types=types,
            norm=norm,
        ),
        layers=(layer,) * config_values.whole_number(config, "num_hidden_layers", 12),
        final_norm=None,
        max_positions=positions - position_offset,
        score=_score(config, width),
    )


def _layer(config: Config, width: int, norm: Norm) -> Layer:
    heads = config_values.whole_number(config, "num_attention_heads", 12)
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
            rope=None,
            window=None,
            qk_norm=None,
            logn=None,
        ),
        ffn_norm=norm,
        ffn=FeedForward(
            inner=config_values.whole_number(config, "intermediate_size", 4 * width),
            gated=False,
            activation=config_values.activation(config, "hidden_act", "gelu"),
            up_bias=True,
            down_bias=True,
        ),
    )


def _score(config: Config, width: int) -> ScoreHead | None:
    if not config_values.is_classifier(config):
        return None
    dense = Dense(width, bias=True, activation="tanh")
    return ScoreHead("cls", dense, norm=None, outputs=config_values.labels(config), bias=True)
