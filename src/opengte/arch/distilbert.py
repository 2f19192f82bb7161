"""DistilBERT (arXiv 1910.01108): mini-gte, multi-qa-distilbert, bodies of SPLADE."""

from collections.abc import Mapping
from dataclasses import replace

from opengte.arch import config_values
from opengte.arch.bert import SPARSE, TOKENS, bert_body
from opengte.arch.config_values import Config
from opengte.arch.plan import Dense, Plan, ScoreHead
from opengte.arch.tensors import TensorNaming

DISTILBERT = TensorNaming(
    body={
        "embedding.word": ("embeddings.word_embeddings.weight",),
        "embedding.position": ("embeddings.position_embeddings.weight",),
        "embedding.norm": ("embeddings.LayerNorm",),
        "layers.{i}.qkv": (
            (
                "transformer.layer.{i}.attention.q_lin",
                "transformer.layer.{i}.attention.k_lin",
                "transformer.layer.{i}.attention.v_lin",
            ),
        ),
        "layers.{i}.out": ("transformer.layer.{i}.attention.out_lin",),
        "layers.{i}.attention_norm": ("transformer.layer.{i}.sa_layer_norm",),
        "layers.{i}.up": ("transformer.layer.{i}.ffn.lin1",),
        "layers.{i}.down": ("transformer.layer.{i}.ffn.lin2",),
        "layers.{i}.ffn_norm": ("transformer.layer.{i}.output_layer_norm",),
    },
    heads={
        "score.dense": ("pre_classifier",),
        "score.out": ("classifier",),
        "sparse": SPARSE,
        "tokens": TOKENS,
        "masked.dense": ("vocab_transform",),
        "masked.norm": ("vocab_layer_norm",),
        "masked": ("vocab_projector.bias",),
    },
    prefixes=("distilbert.", ""),
    unused=(r"embeddings\.position_ids", r"vocab_.*", r"(pre_)?classifier\..*"),
)
# DistilBERT's names of BERT's settings
KEYS: Mapping[str, str] = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}


def distilbert_plan(config: Config) -> Plan:
    """Return the plan of a DistilBERT encoder: BERT of six layers without token types."""
    width = config_values.whole_number(config, "dim", 768)
    settings = {
        "num_hidden_layers": 6,
        "intermediate_size": 3072,
        "vocab_size": config.get("vocab_size", 30522),
        "max_position_embeddings": config.get("max_position_embeddings", 512),
        "model_type": config.get("model_type"),
    }
    given = {name: config.get(key) for name, key in KEYS.items()}
    settings |= {name: value for name, value in given.items() if value is not None}
    plan = bert_body(settings, "distilbert", position_offset=0, types=0)
    return replace(plan, score=_score(config, width))


def _score(config: Config, width: int) -> ScoreHead | None:
    if not config_values.is_classifier(config):
        return None
    dense = Dense(width, bias=True, activation="relu")
    labels = config_values.labels(config)
    return ScoreHead(pooling="cls", dense=dense, norm=None, outputs=labels, bias=True)
