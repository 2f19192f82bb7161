"""Qwen2, Qwen3 and Mistral against transformers: both directions of attention, grouped heads."""

import pytest
from transformers import (
    MistralConfig,
    MistralModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from tests.parity import oracle, packed
from tests.support import checkpoints

# What says that a Qwen2 checkpoint attends in both directions.
GTE_QWEN = {"auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"}}

# query heads and key-value heads: ratios 1, 2, 6 and 7
GROUPS = [(3, 3), (4, 2), (6, 1), (12, 2), (7, 1), (14, 2)]


def _settings(**changes):
    return {
        "vocab_size": checkpoints.VOCABULARY,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 56,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "attn_implementation": "eager",
    } | changes


def _check_causal(folder, model, lengths=packed.LONG):
    rows = packed.rows_of(lengths)
    packed.check_states(packed.load(folder), rows, lambda ids: oracle.states(model, ids))


def _check_bidirectional(folder, model, lengths=packed.LONG):
    rows = packed.rows_of(lengths)
    packed.check_states(
        packed.load(folder), rows, lambda ids: oracle.bidirectional_states(model, ids)
    )


def _qwen2(folder, changes=None, **settings):
    config = Qwen2Config(**_settings(**settings))
    return checkpoints.transformers_model(folder, Qwen2Model(config), **changes or {})


@pytest.mark.parametrize("keys", ["older keys", "transformers 5"])
@pytest.mark.parametrize(("heads", "kv_heads"), GROUPS)
def test_qwen2_bidirectional(tmp_path, heads, kv_heads, keys):
    settings = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    model = _qwen2(tmp_path, GTE_QWEN, hidden_size=8 * heads, **settings)
    if keys == "older keys":
        checkpoints.older_rope_keys(tmp_path)
    _check_bidirectional(tmp_path, model)


@pytest.mark.parametrize("head_dim", [16, 24, 80])
def test_qwen2_head_dimension_is_width_over_heads(tmp_path, head_dim):
    model = _qwen2(
        tmp_path,
        GTE_QWEN,
        num_hidden_layers=1,
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    _check_bidirectional(tmp_path, model, (1, 2, 3, 100))


def test_is_causal_false_removes_the_mask(tmp_path):
    _check_bidirectional(tmp_path, _qwen2(tmp_path, {"is_causal": False}), (1, 2, 30))


@pytest.mark.parametrize(
    "model",
    [
        lambda: Qwen2Model(Qwen2Config(**_settings())),
        lambda: Qwen3Model(Qwen3Config(**_settings(head_dim=16))),
        lambda: MistralModel(MistralConfig(**_settings(sliding_window=None))),
    ],
)
def test_use_bidirectional_attention_removes_the_mask(tmp_path, model):
    made = checkpoints.transformers_model(tmp_path, model(), use_bidirectional_attention=True)
    _check_bidirectional(tmp_path, made, (1, 2, 30))


def test_is_causal_true_keeps_the_mask(tmp_path):
    _check_causal(tmp_path, _qwen2(tmp_path, GTE_QWEN | {"is_causal": True}), (1, 2, 30))


def test_qwen2_causal(tmp_path):
    _check_causal(tmp_path, _qwen2(tmp_path))


def test_unused_sliding_window_changes_nothing(tmp_path):
    changes = {"sliding_window": 4, "use_sliding_window": False, "max_window_layers": 1}
    _check_causal(tmp_path, _qwen2(tmp_path, changes), (1, 4, 5, 30))


@pytest.mark.parametrize("from_layer", [0, 1, 3])
def test_sliding_window_from_a_certain_layer_on(tmp_path, from_layer):
    settings = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": from_layer}
    model = _qwen2(tmp_path, num_hidden_layers=3, **settings)
    checkpoints.older_rope_keys(tmp_path)
    _check_causal(tmp_path, model, (1, 4, 5, 30))


@pytest.mark.parametrize(("heads", "kv_heads"), GROUPS)
def test_qwen3(tmp_path, heads, kv_heads):
    settings = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 16}
    model = checkpoints.transformers_model(
        tmp_path, Qwen3Model(Qwen3Config(**_settings(**settings)))
    )
    _check_causal(tmp_path, model)


@pytest.mark.parametrize("head_dim", [16, 24, 80])
@pytest.mark.parametrize("layers", [1, 3])
def test_qwen3_head_dimension_is_its_own(tmp_path, head_dim, layers):
    config = Qwen3Config(**_settings(head_dim=head_dim, num_hidden_layers=layers))
    model = checkpoints.transformers_model(tmp_path, Qwen3Model(config))
    checkpoints.older_rope_keys(tmp_path)
    _check_causal(tmp_path, model, (1, 2, 3, 100))


@pytest.mark.parametrize("tied", [True, False])
def test_qwen3_from_the_file_of_its_language_model(tmp_path, tied):
    config = Qwen3Config(**_settings(head_dim=16, tie_word_embeddings=tied))
    model = checkpoints.transformers_model(tmp_path, Qwen3ForCausalLM(config))
    names = checkpoints.tensors_of(tmp_path)
    assert "model.embed_tokens.weight" in names
    assert ("lm_head.weight" in names) is not tied
    _check_causal(tmp_path, model.model, (1, 2, 30))


def test_attention_bias(tmp_path):
    config = Qwen3Config(**_settings(head_dim=16, attention_bias=True))
    model = checkpoints.transformers_model(tmp_path, Qwen3Model(config))
    _check_causal(tmp_path, model, (1, 2, 30))


def test_epsilon_is_that_of_the_config(tmp_path):
    config = Qwen3Config(**_settings(head_dim=16, rms_norm_eps=0.1))
    model = checkpoints.transformers_model(tmp_path, Qwen3Model(config))
    _check_causal(tmp_path, model, (1, 2, 30))


@pytest.mark.parametrize("window", [None, 1, 2, 5, 64, 600])
def test_mistral(tmp_path, window):
    config = MistralConfig(**_settings(head_dim=16, sliding_window=window))
    model = checkpoints.transformers_model(tmp_path, MistralModel(config))
    checkpoints.older_rope_keys(tmp_path)
    _check_causal(tmp_path, model, (1, 2, 3, 5, 6, 7, 63, 64, 65, 66, 520))


def test_window_of_a_long_text(tmp_path):
    config = MistralConfig(**_settings(num_hidden_layers=1, sliding_window=100))
    model = checkpoints.transformers_model(tmp_path, MistralModel(config))
    _check_causal(tmp_path, model, (1030, 1))


def test_mistral_published_without_a_head_dimension(tmp_path):
    config = MistralConfig(**_settings(head_dim=None, sliding_window=4096))
    model = checkpoints.transformers_model(tmp_path, MistralModel(config), head_dim=...)
    _check_causal(tmp_path, model, (1, 2, 30))
