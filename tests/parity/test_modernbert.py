"""ModernBERT against transformers: alternating attention, two RoPE bases, no first norm."""

from typing import Any

import pytest
from transformers import ModernBertConfig, ModernBertModel

from tests.parity import oracle, packed
from tests.support import checkpoints

WINDOW_EDGES = (1, 2, 3, 63, 64, 65, 66, 128, 129, 130, 200)


def _config(**changes):
    settings: dict[str, Any] = {
        "vocab_size": checkpoints.VOCABULARY,
        "hidden_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 36,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "attn_implementation": "eager",
    }
    return ModernBertConfig(**settings | changes)


def _rope(full, sliding):
    return {
        "full_attention": {"rope_type": "default", "rope_theta": full},
        "sliding_attention": {"rope_type": "default", "rope_theta": sliding},
    }


CASES = {
    "as published": {},
    "one layer": {"num_hidden_layers": 1},
    "seven layers": {"num_hidden_layers": 7},
    "biases": {"attention_bias": True, "mlp_bias": True, "norm_bias": True},
    "narrow window": {"local_attention": 6},
    "window of one": {"local_attention": 1},
    "other bases": {"rope_parameters": _rope(500.0, 70.0)},
    "five heads of 16": {"hidden_size": 80, "num_attention_heads": 5, "intermediate_size": 33},
    "large epsilon": {"norm_eps": 0.1},
    "relu": {"hidden_activation": "relu"},
}


@pytest.mark.parametrize("keys", ["older keys", "transformers 5"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_modernbert(tmp_path, case, keys):
    model = checkpoints.transformers_model(tmp_path, ModernBertModel(_config(**case)))
    if keys == "older keys":
        checkpoints.older_rope_keys(tmp_path)
    rows = packed.rows_of(WINDOW_EDGES)
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


@pytest.mark.parametrize(
    "types",
    [
        ["sliding_attention", "full_attention"],
        ["sliding_attention"] * 2,
        ["full_attention", "full_attention", "sliding_attention"],
    ],
)
def test_layer_types_are_read(tmp_path, types):
    config = _config(num_hidden_layers=len(types), layer_types=types, local_attention=8)
    model = checkpoints.transformers_model(tmp_path, ModernBertModel(config))
    rows = packed.rows_of((9, 1, 40))
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


def test_longer_than_512(tmp_path):
    model = checkpoints.transformers_model(tmp_path, ModernBertModel(_config()))
    rows = packed.rows_of((1, 2, 511, 512, 513, 1030))
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


def test_prefix_of_a_model_with_a_head(tmp_path):
    model = checkpoints.transformers_model(tmp_path, ModernBertModel(_config()))
    checkpoints.add_prefix(tmp_path, "model.")
    rows = packed.rows_of((5, 1, 30))
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))
