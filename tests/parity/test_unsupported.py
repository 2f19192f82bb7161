"""A setting that would change the result and is not known stops the load, by its name."""

import pytest

from opengte.arch import plan_of
from opengte.errors import UnsupportedModelError
from tests.support.published_configs import CONFIGS

BERT = "thenlper/gte-base"
XLM_ROBERTA = "BAAI/bge-m3"
NEW = "Alibaba-NLP/gte-multilingual-base"
MODERNBERT = "Alibaba-NLP/gte-modernbert-base"
QWEN2 = "Alibaba-NLP/gte-Qwen2-7B-instruct"
QWEN3 = "Qwen/Qwen3-Embedding-0.6B"
NV = "nvidia/NV-Embed-v1"
MISTRAL = "intfloat/e5-mistral-7b-instruct"

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
DYNAMIC = {"type": "dynamic", "factor": 4.0}

CASES = [
    (BERT, {"model_type": "gpt2"}, "model_type", "gpt2"),
    (BERT, {"model_type": ...}, "model_type", "None"),
    (BERT, {"position_embedding_type": "relative_key"}, "position_embedding_type", "relative_key"),
    (BERT, {"hidden_act": "snake"}, "hidden_act", "snake"),
    (BERT, {"is_decoder": True}, "is_decoder", "True"),
    (XLM_ROBERTA, {"position_embedding_type": "relative_key_query"}, "position_embedding_type", ""),
    (NEW, {"hidden_act": "snake"}, "hidden_act", "snake"),
    (NEW, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling", "linear"),
    (NEW, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling", "dynamic"),
    (NEW, {"layer_norm_type": "deep_norm"}, "layer_norm_type", "deep_norm"),
    (NEW, {"position_embedding_type": "alibi"}, "position_embedding_type", "alibi"),
    (MODERNBERT, {"hidden_activation": "snake"}, "hidden_activation", "snake"),
    (QWEN2, {"hidden_act": "snake"}, "hidden_act", "snake"),
    (QWEN2, {"rope_scaling": DYNAMIC}, "rope_type", "dynamic"),
    (QWEN3, {"rope_parameters": DYNAMIC | {"rope_theta": 1e6}}, "rope_type", "dynamic"),
    (QWEN3, {"rope_scaling": {"rope_type": "longrope"}}, "rope_type", "longrope"),
    (QWEN3, {"rope_scaling": YARN | {"factor": "four"}}, "factor", "four"),
    (MISTRAL, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor", "0.5"),
    (MISTRAL, {"hidden_act": "snake"}, "hidden_act", "snake"),
    (QWEN3, {"use_bidirectional_attention": "all"}, "use_bidirectional_attention", "all"),
    (QWEN3, {"use_bidirectional_attention": True, "is_causal": True}, "is_causal", "True"),
    (MISTRAL, {"is_causal": False, "sliding_window": 9}, "sliding_window", "9"),
    (BERT, {"is_causal": True}, "is_causal", "True"),
    (XLM_ROBERTA, {"is_causal": True}, "is_causal", "True"),
    (NEW, {"is_causal": True}, "is_causal", "True"),
    (MODERNBERT, {"is_causal": True}, "is_causal", "True"),
]


@pytest.mark.parametrize(("model", "changes", "setting", "value"), CASES)
def test_unknown_setting_is_named(model, changes, setting, value):
    config = CONFIGS[model] | changes
    config = {key: value for key, value in config.items() if value is not ...}
    with pytest.raises(UnsupportedModelError) as caught:
        plan_of(config)
    assert setting in str(caught.value)
    assert value in str(caught.value)


SIZES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]


def _changed_size(model, key, value):
    config = dict(CONFIGS[model])
    if "text_config" in config:
        return config | {"text_config": config["text_config"] | {key: value}}
    return config | {key: value}


@pytest.mark.parametrize("model", [BERT, XLM_ROBERTA, NEW, MODERNBERT, QWEN2, QWEN3, MISTRAL, NV])
@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("value", ["768", 0, -3, 7.5, True, [768]])
def test_size_that_is_no_count_is_named(model, key, value):
    with pytest.raises(UnsupportedModelError, match=key):
        plan_of(_changed_size(model, key, value))


@pytest.mark.parametrize("model", [BERT, NEW, MODERNBERT, QWEN2])
def test_width_that_heads_do_not_divide_is_named(model):
    with pytest.raises(UnsupportedModelError, match="num_attention_heads"):
        plan_of(CONFIGS[model] | {"num_attention_heads": 11, "num_key_value_heads": 11})


@pytest.mark.parametrize("model", [QWEN2, QWEN3, MISTRAL])
def test_heads_that_groups_do_not_divide_are_named(model):
    with pytest.raises(UnsupportedModelError, match="num_key_value_heads"):
        plan_of(CONFIGS[model] | {"num_key_value_heads": 5})
