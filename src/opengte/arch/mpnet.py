"""MPNet (arXiv 2004.09297): all-mpnet-base-v2, multi-qa-mpnet, paraphrase-mpnet."""

from dataclasses import replace

from opengte.arch import config_values
from opengte.arch.bert import BERT, SPARSE, TOKENS, bert_body
from opengte.arch.config_values import Config
from opengte.arch.plan import BucketBias, Plan

MPNET = replace(
    BERT,
    body={
        **BERT.body,
        "position_bias": ("encoder.relative_attention_bias.weight",),
        "layers.{i}.qkv": (
            (
                "encoder.layer.{i}.attention.attn.q",
                "encoder.layer.{i}.attention.attn.k",
                "encoder.layer.{i}.attention.attn.v",
            ),
        ),
        "layers.{i}.out": ("encoder.layer.{i}.attention.attn.o",),
        "layers.{i}.attention_norm": ("encoder.layer.{i}.attention.LayerNorm",),
    },
    heads={
        "score.dense": ("classifier.dense",),
        "score.out": ("classifier.out_proj",),
        "sparse": SPARSE,
        "tokens": TOKENS,
        "masked.dense": ("lm_head.dense",),
        "masked.norm": ("lm_head.layer_norm",),
        "masked": ("lm_head.bias", "lm_head.decoder.bias"),
    },
    prefixes=("mpnet.", ""),
)


def mpnet_plan(config: Config) -> Plan:
    """Return the plan of an MPNet encoder: BERT with one table of distances for all layers."""
    # transformers' class has these numbers, whatever the config says
    config_values.one_of(config, "relative_attention_num_buckets", (32,))
    plan = bert_body(config, "mpnet", position_offset=2, types=0)
    return replace(plan, position_bias=BucketBias(32, max_distance=128))
