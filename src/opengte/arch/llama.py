"""Llama and EuroBERT: llama-embed-nemotron, LLM2Vec bodies, EuroBERT, jina-embeddings-v5-nano."""

from dataclasses import replace

from opengte.arch import config_values
from opengte.arch.bert import SPARSE, TOKENS
from opengte.arch.config_values import Config
from opengte.arch.decoder import DECODER, decoder_plan, is_causal
from opengte.arch.plan import Dense, Plan, ScoreHead

EUROBERT = replace(
    DECODER,
    heads={
        "score.dense": ("dense",),
        "score.out": ("classifier",),
        "sparse": SPARSE,
        "tokens": TOKENS,
    },
)


def llama_plan(config: Config) -> Plan:
    """Return the plan of a Llama decoder; `llama_bidirec` is one whose tokens attend to all."""
    bidirectional = config.get("model_type") == "llama_bidirec"
    bias = config_values.flag(config, "attention_bias", False)
    return decoder_plan(
        config,
        "llama",
        causal=is_causal(config, not bidirectional),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=config_values.flag(config, "mlp_bias", False),
    )


def eurobert_plan(config: Config) -> Plan:
    """Return the plan of EuroBERT (arXiv 2503.05500): a Llama whose tokens attend to all."""
    bias = config_values.flag(config, "attention_bias", False)
    config_values.one_of(config, "is_causal", (False,))
    return decoder_plan(
        config,
        "eurobert",
        causal=False,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=config_values.flag(config, "mlp_bias", False),
        eps=1e-5,
        score=_score(config),
    )


def _score(config: Config) -> ScoreHead | None:
    if not config_values.is_classifier(config):
        return None
    width = config_values.whole_number(config, "hidden_size")
    pooling = config.get("classifier_pooling", "late")
    if pooling not in ("bos", "mean"):
        raise config_values.unsupported_value(config, "classifier_pooling", pooling, "bos or mean")
    return ScoreHead(
        pooling="cls" if pooling == "bos" else "mean",
        dense=Dense(width, bias=True, activation="gelu"),
        norm=None,
        outputs=config_values.labels(config),
        bias=True,
    )
