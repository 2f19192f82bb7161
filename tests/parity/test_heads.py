"""Pooling, projection modules and the heads of bge-m3, over states that transformers gives."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from tests.parity import oracle, packed
from tests.support import checkpoints, naive

WIDTH = 48
LENGTHS = (1, 2, 3, 50)


def _bert(folder):
    config = BertConfig(
        vocab_size=checkpoints.VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=40,
    )
    return checkpoints.transformers_model(folder, BertModel(config))


@pytest.mark.parametrize("mode", ["cls", "mean", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_is_that_of_its_file(tmp_path, mode, normalize):
    model = _bert(tmp_path)
    checkpoints.add_modules(tmp_path, mode, normalize=normalize)
    rows = packed.rows_of(LENGTHS)
    found = packed.dense(packed.load(tmp_path), packed.pack(rows))
    for vector, row in zip(found, rows, strict=True):
        packed.close(vector, naive.pool(oracle.states(model, row), mode))


def test_mean_leaves_leading_tokens_out(tmp_path):
    model = _bert(tmp_path)
    checkpoints.add_modules(tmp_path, "mean")
    rows, skip = packed.rows_of(LENGTHS), [0, 1, 2, 20]
    found = packed.dense(packed.load(tmp_path), packed.pack(rows, skip=skip))
    for vector, row, count in zip(found, rows, skip, strict=True):
        packed.close(vector, naive.pool(oracle.states(model, row), "mean", count))


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "torch.nn.modules.activation.Tanh": np.tanh,
    "torch.nn.modules.linear.Identity": lambda x: x,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [20, WIDTH, 100])
def test_dense_module(tmp_path, activation, bias, outputs):
    model = _bert(tmp_path)
    generator = torch.Generator().manual_seed(3)
    shapes = {"linear.weight": (outputs, WIDTH), "linear.bias": (outputs,)}
    dense = {
        name: checkpoints.random_weight(name, shape, generator)
        for name, shape in shapes.items()
        if bias or name == "linear.weight"
    }
    checkpoints.add_modules(tmp_path, "mean", dense=dense, activation=activation)
    tensors, rows = checkpoints.as_arrays(dense), packed.rows_of(LENGTHS)
    found = packed.dense(packed.load(tmp_path), packed.pack(rows))
    assert found.shape == (len(rows), outputs)
    for vector, row in zip(found, rows, strict=True):
        pooled = naive.pool(oracle.states(model, row), "mean")
        projected = naive.linear(pooled, tensors, "linear")
        packed.close(vector, ACTIVATIONS[activation](projected))


def test_bge_m3(tmp_path):
    config = XLMRobertaConfig(
        vocab_size=checkpoints.VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    model = checkpoints.transformers_model(tmp_path, XLMRobertaModel(config))
    checkpoints.add_modules(tmp_path, "cls")
    heads = checkpoints.add_m3_heads(tmp_path, WIDTH, token_width=WIDTH)
    sparse_linear, colbert_linear = map(checkpoints.as_arrays, heads.values())
    rows = packed.rows_of((2, 3, 50, 512))
    batch = packed.pack(rows)
    vectors, *parts = packed.run(packed.load(tmp_path), batch, "dense", "sparse", "tokens")
    sparse, tokens = (packed.unpack(part, batch) for part in parts)
    for i, row in enumerate(rows):
        states = oracle.states(model, row)
        packed.close(vectors[i], states[0])
        packed.close(sparse[i], naive.m3_sparse(sparse_linear, states))
        unit_tokens = naive.unit(tokens[i][1:]).astype(np.float32)
        packed.close(unit_tokens, naive.m3_tokens(colbert_linear, states))
