"""Modules of sentence-transformers against that library: poolings, and what comes after them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import (
    Dropout,
    LayerNorm,
    Pooling,
    WeightedLayerPooling,
)

from opengte import Encoder
from opengte.checkpoint import read_checkpoint
from opengte.engine import native_extension
from opengte.errors import UnsupportedModelError
from opengte.types import Floats
from tests.support import checkpoints

WIDTH = 24
TEXTS = ["a cat", "", "The dog sat on the mat, and the cat did not.", "x", "one two three " * 30]
ENGINES = ["torch", *(["native"] if native_extension.available() else [])]
POOLINGS = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


def network(folder: Path, **changes: Any) -> Transformer:
    """Write a tiny BERT with the default model's tokenizer, and return its module."""
    settings = {
        "vocab_size": 30522,
        "hidden_size": WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = transformers.BertConfig(**settings | changes)
    checkpoints.transformers_model(folder, transformers.BertModel(config))
    source = read_checkpoint("minilm").folder
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    return Transformer(str(folder))


def _randomised(*modules: torch.nn.Module) -> list[torch.nn.Module]:
    generator = torch.Generator().manual_seed(5)
    for module in modules:
        for parameter in module.parameters():
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator) + 0.3)
    return list(modules)


def _unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _check(folder: Path, network: Transformer, *modules: torch.nn.Module, **prompt: Any) -> None:
    model = SentenceTransformer(modules=[network, *_randomised(*modules)], device="cpu", **prompt)
    model.save(str(folder / "saved"))
    wanted = _unit(model.encode(TEXTS, prompt_name="query" if prompt else None))
    for name in ENGINES:
        encoder = Encoder.load(folder / "saved", engine=name, precision="fp32")
        found = encoder.embed(TEXTS, role="query" if prompt else None).dense
        assert found is not None
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("mode", POOLINGS)
def test_pooling(tmp_path: Path, mode: Any) -> None:
    _check(tmp_path, network(tmp_path), Pooling(WIDTH, mode))


@pytest.mark.parametrize("mode", POOLINGS)
def test_pooling_without_the_prompt(tmp_path: Path, mode: Any) -> None:
    module = Pooling(WIDTH, mode, include_prompt=False)
    _check(tmp_path, network(tmp_path), module, prompts={"query": "find a text: "})


@pytest.mark.parametrize(
    "modes", [("cls", "mean"), ("max", "lasttoken", "weightedmean"), tuple(POOLINGS)]
)
def test_poolings_end_to_end(tmp_path: Path, modes: Any) -> None:
    _check(tmp_path, network(tmp_path), Pooling(WIDTH, modes))
    _check(tmp_path, network(tmp_path), Pooling(WIDTH, modes), Dense(WIDTH * len(modes), 9))


def test_poolings_end_to_end_of_older_files(tmp_path: Path) -> None:
    body = network(tmp_path)
    _check(tmp_path, body, Pooling(WIDTH, ("cls", "mean")))
    path = tmp_path / "saved" / "1_Pooling" / "config.json"
    wanted = Encoder.load(tmp_path / "saved", precision="fp32").encode(TEXTS)
    checkpoints.write_json(path, checkpoints.pooling_config(WIDTH, "cls", "mean"))
    found = Encoder.load(tmp_path / "saved", precision="fp32").encode(TEXTS)
    np.testing.assert_array_equal(found, wanted)


CHAINS = {
    "two projections": lambda: [Dense(WIDTH, 40), Dense(40, 7, bias=False)],
    "activations": lambda: [
        Dense(WIDTH, 9, activation_function=torch.nn.GELU()),
        Dense(9, 9, activation_function=torch.nn.SiLU()),
        Dense(9, 5, activation_function=torch.nn.ReLU()),
    ],
    "a norm": lambda: [LayerNorm(WIDTH)],
    "a norm between": lambda: [Dense(WIDTH, 40), LayerNorm(40), Dropout(0.4), Dense(40, 6)],
    "unit length between": lambda: [Normalize(), Dense(WIDTH, 11), Normalize(), LayerNorm(11)],
    "unit length at the end": lambda: [Dense(WIDTH, 11), Normalize(), Normalize()],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_what_comes_after_pooling(tmp_path: Path, chain: str) -> None:
    _check(tmp_path, network(tmp_path), Pooling(WIDTH, "mean"), *CHAINS[chain]())


@pytest.mark.parametrize("start", [0, 1, 3])
def test_the_mean_of_layers(tmp_path: Path, start: int) -> None:
    body = network(tmp_path, output_hidden_states=True)
    mixer = WeightedLayerPooling(WIDTH, num_hidden_layers=3, layer_start=start)
    _check(tmp_path, body, mixer, Pooling(WIDTH, "mean"))
    assert read_checkpoint(tmp_path / "saved").plan.layer_mix is not None


def test_a_mean_of_layers_that_is_not_computed_there_is_not_computed_here(tmp_path: Path) -> None:
    mixer = WeightedLayerPooling(WIDTH, num_hidden_layers=3, layer_start=1)
    _check(tmp_path, network(tmp_path), mixer, Pooling(WIDTH, "cls"))
    assert read_checkpoint(tmp_path / "saved").plan.layer_mix is None


@contextmanager
def _refused(message: str) -> Iterator[None]:
    with pytest.raises(UnsupportedModelError, match=message):
        yield


def test_faults_are_named(tmp_path: Path) -> None:
    body = network(tmp_path, output_hidden_states=True)
    mixer = WeightedLayerPooling(WIDTH, num_hidden_layers=3, layer_start=1)
    _check(tmp_path, body, mixer, Pooling(WIDTH, "mean"))
    saved = tmp_path / "saved"
    path = saved / "1_WeightedLayerPooling" / "config.json"
    checkpoints.write_json(path, {"num_hidden_layers": 12, "layer_start": 4})
    with _refused("`num_hidden_layers` is 12 and `layer_start` 4, expected 3"):
        read_checkpoint(saved)
    checkpoints.write_json(path, {"num_hidden_layers": 3, "layer_start": 1})
    pooling = saved / "2_Pooling" / "config.json"
    checkpoints.write_json(pooling, {"pooling_mode": ["mean", "median"]})
    with _refused("sets 'median', expected of cls, max, mean"):
        read_checkpoint(saved)
    checkpoints.write_json(pooling, {"pooling_mode_median_tokens": True})
    with _refused("sets 'pooling_mode_median_tokens'"):
        read_checkpoint(saved)
