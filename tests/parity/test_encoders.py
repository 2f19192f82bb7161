"""BERT, RoBERTa and XLM-R against transformers."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.parity import oracle, packed
from tests.support import checkpoints

# heads and head dimensions that fill no vector register, inner widths that are no multiple of 8
SHAPES = {
    "one layer": {"layers": 1, "heads": 2, "head_dim": 16, "inner": 40},
    "three heads": {"layers": 2, "heads": 3, "head_dim": 16, "inner": 50},
    "five heads of 24": {"layers": 2, "heads": 5, "head_dim": 24, "inner": 33},
    "one head of 80": {"layers": 3, "heads": 1, "head_dim": 80, "inner": 8},
    "seven heads of 4": {"layers": 2, "heads": 7, "head_dim": 4, "inner": 56},
}


def _settings(shape, **changes):
    return {
        "vocab_size": checkpoints.VOCABULARY,
        "hidden_size": shape["heads"] * shape["head_dim"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "intermediate_size": shape["inner"],
    } | changes


def _xlm_roberta(shape, **changes):
    settings = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return _settings(shape, **settings | changes)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_bert(tmp_path, shape):
    model = checkpoints.transformers_model(tmp_path, BertModel(BertConfig(**_settings(shape))))
    rows = packed.rows_of(packed.EDGES)
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"])
def test_activations(tmp_path, activation):
    config = BertConfig(**_settings(SHAPES["three heads"], hidden_act=activation))
    model = checkpoints.transformers_model(tmp_path, BertModel(config))
    rows = packed.rows_of((5, 1, 30))
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


def test_epsilon_is_that_of_the_config(tmp_path):
    config = BertConfig(**_settings(SHAPES["three heads"], layer_norm_eps=0.1))
    model = checkpoints.transformers_model(tmp_path, BertModel(config))
    rows = packed.rows_of((5, 1, 30))
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


def test_token_types(tmp_path):
    config = BertConfig(**_settings(SHAPES["three heads"]))
    model = checkpoints.transformers_model(tmp_path, BertModel(config))
    rows = packed.rows_of((4, 9, 2))
    types = [(row % 2).astype(row.dtype) for row in rows]
    assert any(row.any() for row in types)
    found = packed.states(packed.load(tmp_path), packed.pack(rows, types))
    for states, row, kinds in zip(found, rows, types, strict=True):
        packed.close(states, oracle.states(model, row, kinds))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_xlm_roberta(tmp_path, shape):
    config = XLMRobertaConfig(**_xlm_roberta(shape))
    model = checkpoints.transformers_model(tmp_path, XLMRobertaModel(config))
    rows = packed.rows_of(packed.EDGES)
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


@pytest.mark.parametrize("pad", [1, 0, 4])
def test_a_padding_token_in_a_text_is_not_counted(tmp_path, pad):
    config = XLMRobertaConfig(**_xlm_roberta(SHAPES["three heads"], pad_token_id=pad))
    model = checkpoints.transformers_model(tmp_path, XLMRobertaModel(config))
    rows = packed.rows_of((1, 9, 30, 3, 12))
    for row, places in zip(rows, ([0], [2, 3, 8], [], [0, 2], [11]), strict=True):
        row[places] = pad
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


def test_xlm_roberta_longer_than_512(tmp_path):
    config = XLMRobertaConfig(**_xlm_roberta(SHAPES["one layer"], max_position_embeddings=802))
    model = checkpoints.transformers_model(tmp_path, XLMRobertaModel(config))
    rows = packed.rows_of((800, 513))
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


def test_roberta(tmp_path):
    config = RobertaConfig(**_xlm_roberta(SHAPES["three heads"]))
    model = checkpoints.transformers_model(tmp_path, RobertaModel(config))
    rows = packed.rows_of((5, 1, 30))
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


def _older_file(folder):
    checkpoints.add_tensors(folder, embeddings__position_ids=torch.arange(512)[None])


def _no_pooler(folder):
    checkpoints.drop_tensors(folder, "pooler.dense.weight", "pooler.dense.bias")


def _with_prefix(folder):
    checkpoints.add_prefix(folder, "bert.")


PUBLISHED = {
    "position_ids in the file": _older_file,
    "no pooler": _no_pooler,
    "prefix of a model with a head": _with_prefix,
    "sharded": checkpoints.shard,
    "pickle": checkpoints.to_pickle,
    "sharded pickle": checkpoints.to_sharded_pickle,
}


@pytest.mark.parametrize("change", PUBLISHED.values(), ids=PUBLISHED)
def test_bert_files_as_published(tmp_path, change):
    config = BertConfig(**_settings(SHAPES["three heads"]))
    model = checkpoints.transformers_model(
        tmp_path, BertModel(config), position_embedding_type="absolute"
    )
    change(tmp_path)
    rows = packed.rows_of((5, 1, 30))
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_widened_exactly(tmp_path, dtype):
    config = BertConfig(**_settings(SHAPES["three heads"]))
    model = checkpoints.transformers_model(tmp_path, BertModel(config))
    checkpoints.cast(tmp_path, dtype)
    model.to(dtype).to(torch.float32)
    rows = packed.rows_of((5, 1, 30))
    packed.check_states(packed.load(tmp_path), rows, lambda ids: oracle.states(model, ids))
