"""Rerankers against transformers: classifier heads, and the yes/no head of a language model."""

import pytest
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from tests.parity import oracle, packed
from tests.support import checkpoints, naive


def _settings(**changes):
    return {
        "vocab_size": checkpoints.VOCABULARY,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "num_labels": 1,
    } | changes


def _bert():
    return BertForSequenceClassification(BertConfig(**_settings()))


def _xlm_roberta():
    config = _settings(max_position_embeddings=514, type_vocab_size=1)
    return XLMRobertaForSequenceClassification(XLMRobertaConfig(**config))


def _modernbert(pooling, **changes):
    config = _settings(classifier_pooling=pooling, local_attention=16, pad_token_id=0, **changes)
    return ModernBertForSequenceClassification(ModernBertConfig(**config))


CLASSIFIERS = {
    "bert": _bert,
    "xlm-roberta": _xlm_roberta,
    "modernbert mean": lambda: _modernbert("mean"),
    "modernbert cls": lambda: _modernbert("cls"),
    "modernbert biases": lambda: _modernbert("mean", classifier_bias=True, norm_bias=True),
    "modernbert relu": lambda: _modernbert("cls", classifier_activation="relu"),
}


@pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_logits(tmp_path, make):
    model = checkpoints.transformers_model(tmp_path, make())
    rows = packed.rows_of((1, 2, 3, 50, 511, 512))
    found = packed.scores(packed.load(tmp_path, kind="reranker"), packed.pack(rows))
    for score, row in zip(found, rows, strict=True):
        assert score == pytest.approx(oracle.logit(model, row), abs=packed.FP32)


def test_second_text_has_its_own_token_type(tmp_path):
    model = checkpoints.transformers_model(tmp_path, _bert())
    rows = packed.rows_of((9, 4))
    types = [(row % 2).astype(row.dtype) for row in rows]
    engine = packed.load(tmp_path, kind="reranker")
    found = packed.scores(engine, packed.pack(rows, types))
    for score, row, kinds in zip(found, rows, types, strict=True):
        assert score == pytest.approx(oracle.logit(model, row, kinds), abs=packed.FP32)


@pytest.mark.filterwarnings("ignore:.* is not known to be a reranker")
@pytest.mark.parametrize("tied", [True, False])
def test_yes_no(tmp_path, tied):
    settings = _settings(head_dim=16, num_attention_heads=4, num_key_value_heads=2)
    del settings["num_labels"]
    config = Qwen3Config(**settings, tie_word_embeddings=tied)
    model = checkpoints.transformers_model(tmp_path, Qwen3ForCausalLM(config))
    yes, no = checkpoints.add_tokens(tmp_path, "yes", "no")
    checkpoints.older_rope_keys(tmp_path)
    rows = packed.rows_of((1, 2, 3, 50, 520))
    found = packed.scores(packed.load(tmp_path, kind="reranker"), packed.pack(rows))
    for score, row in zip(found, rows, strict=True):
        logits = oracle.last_logits(model, row)
        wanted = naive.softmax(logits[[yes, no]].astype(float))[0]
        assert score == pytest.approx(wanted, abs=packed.FP32)
        assert 0 < score < 1
