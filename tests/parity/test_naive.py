"""`naive` against transformers where it has a class, and against itself elsewhere."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GteConfig,
    GteForSequenceClassification,
    GteModel,
    MistralConfig,
    MistralModel,
)

from tests.parity import oracle
from tests.support import checkpoints, naive

CLOSE = 1e-6  # transformers computes its RoPE tables in float32


def test_bert_agrees_with_transformers():
    config = BertConfig(
        vocab_size=checkpoints.VOCABULARY,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
    )
    model = BertModel(config).double().eval()
    checkpoints.randomise(model, seed=0)
    ids = oracle.random_ids(9)
    found = naive.bert_states(
        config.to_dict(), checkpoints.as_arrays(model.state_dict()), ids.tolist()
    )
    np.testing.assert_allclose(found, oracle.states(model, ids), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("causal", [True, False])
def test_mistral_agrees_with_transformers(causal):
    settings: dict[str, Any] = {
        "vocab_size": checkpoints.VOCABULARY,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 40,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "attn_implementation": "eager",
    }
    model = MistralModel(MistralConfig(**settings)).double().eval()
    checkpoints.randomise(model, seed=0)
    ids = oracle.random_ids(9)
    tensors = checkpoints.as_arrays(model.state_dict())
    found = naive.mistral_states(settings, tensors, ids.tolist(), causal=causal)
    wanted = oracle.states(model, ids) if causal else oracle.bidirectional_states(model, ids)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE)


def _gte_config(config):
    keys = (
        "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size "
        "hidden_act max_position_embeddings type_vocab_size layer_norm_eps num_labels"
    )
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    return GteConfig(**{key: config[key] for key in keys.split()}, rope_parameters=rope)


def _with_frequencies(model, config):
    """Put the NTK frequencies, which no rope type of transformers has, into a Gte model."""
    frequencies = naive._new_frequencies(config)
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq = torch.tensor(frequencies, dtype=torch.float64)
    return model.double().eval()


@pytest.mark.parametrize("types", [0, 1, 2])
@pytest.mark.parametrize("scaling", [None, {"type": "ntk", "factor": 8.0}])
def test_new_agrees_with_transformers(tmp_path, types, scaling):
    config, tensors = checkpoints.new_model(
        tmp_path, type_vocab_size=types, rope_scaling=scaling, prefix=True
    )
    model = GteModel.from_pretrained(tmp_path, config=_gte_config(config))
    ids = oracle.random_ids(70)
    found = naive.new_states(config, tensors, ids.tolist())
    np.testing.assert_allclose(
        found, oracle.states(_with_frequencies(model, config), ids), rtol=0, atol=2e-5
    )


def test_new_reranker_agrees_with_transformers(tmp_path):
    config, tensors = checkpoints.new_model(
        tmp_path, architectures=["NewForSequenceClassification"], type_vocab_size=1
    )
    model = GteForSequenceClassification.from_pretrained(tmp_path, config=_gte_config(config))
    ids = oracle.random_ids(11)
    found = naive.new_score(tensors, naive.new_states(config, tensors, ids.tolist()))
    assert found == pytest.approx(oracle.logit(model.double().eval(), ids), abs=1e-6)


# The fact sheet's values for head dimension 64 (section 2.4).
@pytest.mark.parametrize(
    ("theta", "factor", "first", "second", "last"),
    [
        (20000, 8.0, 0.93708, 0.64439, 8.517e-6),  # gte-multilingual-base
        (160000, 2.0, 0.97857, 0.65850, 4.544e-6),  # gte-large-en-v1.5
    ],
)
def test_ntk_frequencies(theta, factor, first, second, last):
    found = naive.inverse_frequencies(theta, 64, factor)
    assert len(found) == 32
    assert found[0] == pytest.approx(first, abs=5e-6)
    assert found[1] == pytest.approx(second, abs=5e-6)
    assert found[31] == pytest.approx(last, abs=5e-10)


def test_mixed_b_of_one_is_the_plain_ntk_form():
    mixed = naive.inverse_frequencies(20000, 64, 8.0, mixed_b=1.0)
    assert mixed == pytest.approx(naive.inverse_frequencies(20000, 64, 8.0))


def test_rotated_scores_depend_on_the_distance_only():
    row = np.random.default_rng(0).normal(size=(1, 16))
    turned = naive.rotate(np.repeat(row, 6, axis=0), naive.inverse_frequencies(10000, 16))
    scores = turned @ turned.T
    assert scores[0, 2] == pytest.approx(scores[3, 5])
    assert scores[0, 2] != pytest.approx(scores[0, 3])


@pytest.mark.parametrize("pack", [True, False])
def test_packed_and_separate_projections_are_one_network(tmp_path, pack):
    config, tensors = checkpoints.new_model(tmp_path, pack_qkv=True)
    ids = oracle.random_ids(7).tolist()
    apart = dict(tensors)
    for i in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{i}.attention"
        for kind in ("weight", "bias"):
            parts = np.split(apart.pop(f"{name}.qkv_proj.{kind}"), 3)
            apart |= {f"{name}.{p}_proj.{kind}": v for p, v in zip("qkv", parts, strict=True)}
    found = naive.new_states(config | {"pack_qkv": False}, apart, ids)
    np.testing.assert_array_equal(found, naive.new_states(config, tensors, ids))


def test_latent_pool_leaves_instruction_tokens_out_of_the_mean_only(tmp_path):
    config, tensors = checkpoints.nvembed_model(tmp_path)
    ids = oracle.random_ids(8).tolist()
    after = naive.latent_states(
        config["latent_attention_config"], tensors, naive.nvembed_states(config, tensors, ids)
    )
    np.testing.assert_allclose(naive.nvembed(config, tensors, ids, 3), after[3:].mean(axis=0))
    assert not np.allclose(naive.nvembed(config, tensors, ids, 3), after.mean(axis=0))


def test_largest_weight_of_an_id_wins_and_special_tokens_have_none():
    weights = np.array([5.0, 0.2, 0.7, 0.0, 3.0])
    assert naive.largest_weights([1, 7, 7, 8, 2], weights, frozenset({1, 2})) == {7: 0.7}
