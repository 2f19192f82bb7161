"""JinaBERT v2 (arXiv 2310.19923): jina-embeddings-v2, BERT with ALiBi and gated layers."""

from collections.abc import Mapping
from dataclasses import replace

from opengte.arch import config_values
from opengte.arch.bert import BERT, bert_body
from opengte.arch.config_values import Config
from opengte.arch.plan import Activation, LinearBias, Plan

JINABERT = replace(
    BERT,
    body={
        **BERT.body,
        "layers.{i}.up": (
            "encoder.layer.{i}.mlp.gated_layers",
            ("encoder.layer.{i}.mlp.gated_layer", "encoder.layer.{i}.mlp.up_layer"),
        ),
        "layers.{i}.down": ("encoder.layer.{i}.mlp.wo", "encoder.layer.{i}.mlp.down_layer"),
        "layers.{i}.ffn_norm": ("encoder.layer.{i}.mlp.layernorm",),
    },
)
GATED: Mapping[str, Activation] = {"geglu": "gelu", "reglu": "relu"}


def is_jinabert(config: Config) -> bool:
    """Return whether a config of type `bert` is JinaBERT's, which says so in its positions."""
    return config.get("position_embedding_type") == "alibi"


def jinabert_plan(config: Config) -> Plan:
    """Return the plan of a JinaBERT v2 encoder, or of its sequence classifier."""
    kind = config_values.one_of(config, "feed_forward_type", ("geglu", "reglu"))
    config_values.one_of(config, "emb_pooler", ("mean", None))
    plan = bert_body(config, "jinabert", position_offset=0, position_kind="alibi")
    ffn = replace(plan.layers[0].ffn, gated=True, up_bias=False, activation=GATED[kind])
    return replace(
        plan,
        layers=tuple(replace(layer, ffn=ffn) for layer in plan.layers),
        embedding=replace(plan.embedding, positions=0),
        position_bias=LinearBias(),
    )
