"""The `new` architecture against `naive`, in every setting that a released model may have."""

import numpy as np
import pytest
from transformers import (
    GteConfig,
    GteForSequenceClassification,
    GteForTokenClassification,
    GteModel,
)

from opengte.types import Output
from tests.parity import oracle, packed
from tests.parity.families import ENCODER
from tests.support import checkpoints, naive

NTK = {"type": "ntk", "factor": 8.0}

CASES = {
    "gte-base-en-v1.5": {"type_vocab_size": 0},
    "gte-large-en-v1.5": {
        "type_vocab_size": 2,
        "rope_theta": 160000,
        "rope_scaling": {"type": "ntk", "factor": 2.0},
    },
    "gte-multilingual-base": {"type_vocab_size": 1, "rope_theta": 20000, "rope_scaling": NTK},
    "mixed_b": {"rope_scaling": NTK | {"mixed_b": 0.6}},
    "mixed_b above one": {"rope_scaling": NTK | {"mixed_b": 1.5}},
    "factor one": {"rope_scaling": {"type": "ntk", "factor": 1.0}},
    "separate projections": {"pack_qkv": False, "type_vocab_size": 1},
    "rms norm": {"layer_norm_type": "rms_norm"},
    "rms norm, types": {"layer_norm_type": "rms_norm", "type_vocab_size": 2},
    "log-n": {"logn_attention_scale": True},
    "log-n, at least one": {"logn_attention_scale": True, "logn_attention_clip1": True},
    "clip without log-n": {"logn_attention_clip1": True},
    "one layer": {"num_hidden_layers": 1},
    "five heads of 24": {"hidden_size": 120, "num_attention_heads": 5, "intermediate_size": 33},
    "one head of 80": {"hidden_size": 80, "num_attention_heads": 1, "intermediate_size": 8},
    "learned positions": {"position_embedding_type": "absolute", "max_position_embeddings": 600},
    "large epsilon": {"layer_norm_eps": 0.1},
    "large epsilon, rms norm": {"layer_norm_eps": 0.1, "layer_norm_type": "rms_norm"},
}


def _naive(config, tensors):
    return lambda ids: naive.new_states(config, tensors, ids.tolist())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_new(tmp_path, case):
    config, tensors = checkpoints.new_model(tmp_path, **case)
    rows = packed.rows_of((1, 2, 3, 64, 65, 130))
    packed.check_states(packed.load(tmp_path), rows, _naive(config, tensors))


@pytest.mark.parametrize("scaling", [None, NTK])
def test_longer_than_512(tmp_path, scaling):
    config, tensors = checkpoints.new_model(
        tmp_path, rope_scaling=scaling, max_position_embeddings=8192, num_hidden_layers=1
    )
    rows = packed.rows_of((511, 512, 520))
    packed.check_states(packed.load(tmp_path), rows, _naive(config, tensors))


LONG = {
    "rope_theta": 20000,
    "max_position_embeddings": 8192,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 32,
}


def test_late_positions_are_those_of_transformers(tmp_path):
    settings = ENCODER | {"hidden_size": 32, "num_attention_heads": 1, "num_hidden_layers": 1}
    rope = {"rope_type": "default", "rope_theta": 20000.0}
    model = GteModel(GteConfig(**settings, type_vocab_size=1, rope_parameters=rope))
    checkpoints.transformers_model(tmp_path, model, pooling="cls")
    rows = packed.rows_of((3000,))
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


def test_late_positions_with_ntk_are_close_to_float64(tmp_path):
    # the models were trained with angles in single precision: at position 3,000 that is 1e-4 rad
    config, tensors = checkpoints.new_model(tmp_path, rope_scaling=NTK, **LONG)
    (ids,) = packed.rows_of((3000,))
    (found,) = packed.states(packed.load(tmp_path), packed.pack([ids]))
    wanted = naive.new_states(config, tensors, ids.tolist())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("types", [1, 2])
def test_token_types(tmp_path, types):
    config, tensors = checkpoints.new_model(tmp_path, type_vocab_size=types)
    rows = packed.rows_of((4, 1, 9))
    kinds = [(row % types).astype(row.dtype) for row in rows]
    found = packed.states(packed.load(tmp_path), packed.pack(rows, kinds))
    for states, row, kind in zip(found, rows, kinds, strict=True):
        packed.close(states, naive.new_states(config, tensors, row.tolist(), kind.tolist()))


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("architectures", [["NewModel"], ["NewModel", "NewForTokenClassification"]])
def test_prefix_or_none(tmp_path, prefix, architectures):
    config, tensors = checkpoints.new_model(tmp_path, prefix=prefix, architectures=architectures)
    rows = packed.rows_of((4, 1, 9))
    packed.check_states(packed.load(tmp_path), rows, _naive(config, tensors))


def test_config_keys_left_out_mean_their_defaults(tmp_path):
    config, tensors = checkpoints.new_model(tmp_path, type_vocab_size=1, rope_theta=10000.0)
    defaults = (
        "type_vocab_size rope_theta rope_scaling pack_qkv layer_norm_type layer_norm_eps "
        "position_embedding_type logn_attention_scale logn_attention_clip1 unpad_inputs hidden_act"
    )
    checkpoints.edit_config(tmp_path, **dict.fromkeys(defaults.split(), ...))
    rows = packed.rows_of((4, 1, 9))
    packed.check_states(packed.load(tmp_path), rows, _naive(config, tensors))


def test_sparse_weights(tmp_path):
    config, tensors = checkpoints.new_model(
        tmp_path, architectures=["NewModel", "NewForTokenClassification"], type_vocab_size=1
    )
    rows = packed.rows_of((1, 7, 40))
    batch = packed.pack(rows)
    engine = packed.load(tmp_path)
    found = packed.unpack(packed.run(engine, batch, "sparse")[0], batch)
    for row, weights in zip(rows, found, strict=True):
        wanted = naive.new_sparse(tensors, naive.new_states(config, tensors, row.tolist()))
        packed.close(weights, wanted)
    assert any((weights == 0).any() for weights in found)
    assert any((weights > 0).any() for weights in found)


def test_outputs_of_one_run_are_those_of_separate_runs(tmp_path):
    checkpoints.new_model(tmp_path, architectures=["NewModel", "NewForTokenClassification"])
    engine, batch = packed.load(tmp_path), packed.pack(packed.rows_of((5, 2)))
    outputs: tuple[Output, ...] = ("dense", "sparse", "states")
    together = packed.run(engine, batch, *outputs)
    for name, found in zip(outputs, together, strict=True):
        packed.close(found, packed.run(engine, batch, name)[0], 0)


@pytest.mark.parametrize("types", [0, 1])
def test_reranker(tmp_path, types):
    config, tensors = checkpoints.new_model(
        tmp_path, architectures=["NewForSequenceClassification"], type_vocab_size=types
    )
    rows = packed.rows_of((3, 1, 50))
    found = packed.scores(packed.load(tmp_path, kind="reranker"), packed.pack(rows))
    for row, score in zip(rows, found, strict=True):
        states = naive.new_states(config, tensors, row.tolist())
        assert score == pytest.approx(naive.new_score(tensors, states), abs=packed.FP32)


# transformers saves the same network, without NTK scaling, under the model type `gte`


def _gte_config():
    return GteConfig(**ENCODER | {"type_vocab_size": 1, "num_labels": 1})


def test_gte_of_transformers(tmp_path):
    model = checkpoints.transformers_model(tmp_path, GteModel(_gte_config()), pooling="cls")
    rows = packed.rows_of(packed.LONG)
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


def test_gte_token_weights_of_transformers(tmp_path):
    model = checkpoints.transformers_model(
        tmp_path, GteForTokenClassification(_gte_config()), pooling="cls"
    )
    rows = packed.rows_of((1, 7, 40))
    batch = packed.pack(rows)
    found = packed.unpack(packed.run(packed.load(tmp_path), batch, "sparse")[0], batch)
    for row, weights in zip(rows, found, strict=True):
        packed.close(weights, oracle.token_logits(model, row)[:, 0].clip(min=0))


def test_gte_reranker_of_transformers(tmp_path):
    model = checkpoints.transformers_model(
        tmp_path, GteForSequenceClassification(_gte_config()), pooling=None
    )
    rows = packed.rows_of((3, 1, 50))
    found = packed.scores(packed.load(tmp_path, kind="reranker"), packed.pack(rows))
    for row, score in zip(rows, found, strict=True):
        assert score == pytest.approx(oracle.logit(model, row), abs=packed.FP32)
