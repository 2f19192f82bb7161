"""ELECTRA (arXiv 2003.10555): BERT with another classifier, and often narrower embeddings."""

from dataclasses import replace

from opengte.arch import config_values
from opengte.arch.bert import BERT, ROBERTA, bert_body
from opengte.arch.config_values import Config
from opengte.arch.plan import Plan

ELECTRA = replace(
    ROBERTA,
    body={**ROBERTA.body, "embedding.projection": ("embeddings_project",)},
    prefixes=("electra.", ""),
    unused=(*BERT.unused, r"(discriminator|generator)_.*"),
)


def electra_plan(config: Config) -> Plan:
    """Return the plan of an ELECTRA encoder, or of its sequence classifier.

    Embeddings of another width than the states are projected.
    """
    width = config_values.whole_number(config, "hidden_size", 256)
    narrow = config_values.whole_number(config, "embedding_size", 128)
    plan = bert_body(config, "electra", position_offset=0)
    if narrow != width:
        plan = replace(plan, embedding=replace(plan.embedding, width=narrow, projected=width))
    if plan.score is None or plan.score.dense is None:
        return plan
    dense = replace(plan.score.dense, activation="gelu")
    return replace(plan, score=replace(plan.score, dense=dense))
