"""Two checkpoints that differ in one bit have two fingerprints, whichever file the bit is in."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from opengte import checkpoint
from opengte.errors import OpenGTEError
from opengte.tokenization.tokenizer import Tokenizer
from tests.parity.families import FAMILIES
from tests.support import checkpoints

FLIPS = 12  # of each kind of file
TEXTS = ("a cat", "What is the capital of China?", "re-read [SEP] it\tNOW", "für 東京 🐈", "")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENGTE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for family in ("bert", "qwen2", "qwen3", "modernbert", "xlm-roberta"):
        folders[family] = tmp_path_factory.mktemp(family) / "model"
        folders[family].mkdir()
        FAMILIES[family](folders[family])
    return folders


def add_dense(folder: Path) -> None:
    checkpoints.add_modules(folder, "mean", dense={"linear.weight": torch.randn(32, 48)})


def add_adapter(folder: Path) -> None:
    name = "base_model.model.encoder.layer.0.attention.self.query.lora_{}.weight"
    tensors = {name.format("A"): torch.randn(16, 48), name.format("B"): torch.randn(48, 16)}
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 16, "lora_alpha": 8, "target_modules": ["query"]}
    checkpoints.write_json(folder / "adapter_config.json", settings)


def add_heads(folder: Path) -> None:
    checkpoints.add_m3_heads(folder, 48, 16)


def nothing(folder: Path) -> None:
    """Leave the folder as transformers wrote it."""


# what holds weights: how a folder gets it, and its files
WEIGHTS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "one file": ("bert", nothing, "model.safetensors"),
    "shards": ("bert", checkpoints.shard, "model-*.safetensors"),
    "pickle": ("bert", checkpoints.to_pickle, "pytorch_model.bin"),
    "sharded pickle": ("bert", checkpoints.to_sharded_pickle, "pytorch_model-*.bin"),
    "decoder": ("qwen2", nothing, "model.safetensors"),
    "dense module": ("bert", add_dense, "2_Dense/model.safetensors"),
    "adapter": ("bert", add_adapter, "adapter_model.safetensors"),
    "heads of bge-m3": ("xlm-roberta", add_heads, "*_linear.pt"),
}


def flips(files: list[Path], seed: int) -> Iterator[tuple[Path, int]]:
    """Change one random bit at a time, in place; the files are whole again at the end.

    Two of the bits are in the first 200 bytes, and one is in the last byte of a file.
    """
    generator = np.random.default_rng(seed)
    sizes = np.array([path.stat().st_size for path in files])
    for number in range(FLIPS):
        path = files[int(generator.choice(len(files), p=sizes / sizes.sum()))]
        raw = bytearray(path.read_bytes())
        limit = min(200, len(raw)) if number < 2 else len(raw)
        place = len(raw) - 1 if number == 2 else int(generator.integers(limit))
        bit = 1 << int(generator.integers(8))
        raw[place] ^= bit
        path.write_bytes(raw)
        yield path, place
        raw[place] ^= bit
        path.write_bytes(raw)


def fingerprint(folder: Path) -> str | None:
    """Return a folder's fingerprint, or None if its files are refused."""
    try:
        return checkpoint.read_checkpoint(folder).fingerprint()
    except OpenGTEError:
        return None


@pytest.mark.filterwarnings("ignore")  # a key of the header may get another name
@pytest.mark.parametrize("kind", WEIGHTS)
def test_one_bit_of_the_weights(originals: dict[str, Path], tmp_path: Path, kind: str) -> None:
    family, make, pattern = WEIGHTS[kind]
    folder = shutil.copytree(originals[family], tmp_path / "model")
    make(folder)
    files = sorted(folder.glob(pattern))
    assert files
    first = fingerprint(folder)
    assert first is not None
    seen = []
    for path, place in flips(files, seed=sorted(WEIGHTS).index(kind)):
        found = fingerprint(folder)
        assert found != first, f"bit of byte {place} of {path.name}"
        seen.append(found)
    told = [found for found in seen if found is not None]
    assert len(set(told)) == len(told) >= FLIPS - 4  # a damaged header is refused
    assert fingerprint(folder) == first


def ids(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode([text], max_length=64).batch.ids.tolist() for text in TEXTS]


@pytest.mark.filterwarnings("ignore")  # some bits make a tokenizer that is warned of
@pytest.mark.parametrize("family", ["bert", "qwen2", "modernbert", "xlm-roberta"])
def test_one_bit_of_the_tokenizer(originals: dict[str, Path], tmp_path: Path, family: str) -> None:
    folder = shutil.copytree(originals[family], tmp_path / "model")
    first, whole = fingerprint(folder), ids(checkpoint.read_checkpoint(folder).tokenizer)
    changed = 0
    for _, place in flips([folder / "tokenizer.json"], seed=len(family)):
        found = fingerprint(folder)
        changed += found not in (None, first)
        if found == first:  # the bit must mean nothing
            assert ids(checkpoint.read_checkpoint(folder).tokenizer) == whole, f"byte {place}"
    assert changed
    assert fingerprint(folder) == first


SLIDING = {"use_sliding_window": True, "max_window_layers": 0}
SETTINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("bert", "config.json", {"layer_norm_eps": 1.0000001e-12}),
    ("bert", "config.json", {"hidden_act": "relu"}),
    ("bert", "config.json", {"num_attention_heads": 6}),
    ("bert", "sentence_bert_config.json", {"max_seq_length": 77}),
    ("bert", "sentence_bert_config.json", {"do_lower_case": True}),
    ("bert", "config_sentence_transformers.json", {"prompts": {"query": "q: "}}),
    ("bert", "config_sentence_transformers.json", {"prompts": {"document": "q: "}}),
    ("bert", "1_Pooling/config.json", checkpoints.pooling_config(48, "cls")),
    ("bert", "1_Pooling/config.json", checkpoints.pooling_config(48, "last")),
    ("bert", "1_Pooling/config.json", {"include_prompt": False}),
    ("bert", "2_Dense/config.json", {"activation_function": "torch.nn.modules.linear.Identity"}),
    ("bert", "adapter_config.json", {"lora_alpha": 9}),
    ("bert", "adapter_config.json", {"use_rslora": True}),
    ("qwen2", "config.json", {"rope_theta": 10001.0}),
    ("qwen2", "config.json", {"rms_norm_eps": 1.0000001e-6}),
    ("qwen3", "config.json", {"is_causal": False}),
    ("qwen3", "config.json", {"use_bidirectional_attention": True}),
    ("qwen3", "config.json", SLIDING | {"sliding_window": 7}),
    ("modernbert", "config.json", {"local_attention": 6}),
    ("modernbert", "config.json", {"norm_eps": 1.0000001e-5}),
]


@pytest.mark.parametrize(("family", "file", "settings"), SETTINGS)
def test_a_setting_that_changes_vectors(
    originals: dict[str, Path], tmp_path: Path, family: str, file: str, settings: dict[str, Any]
) -> None:
    folder = shutil.copytree(originals[family], tmp_path / "model")
    if file.startswith("2_Dense"):
        add_dense(folder)
    elif file.startswith("adapter"):
        add_adapter(folder)
    elif family == "bert":
        checkpoints.add_modules(folder, "mean", max_seq_length=78)
    first = fingerprint(folder)
    before = (folder / file).read_text()
    checkpoints.write_json(folder / file, json.loads(before) | settings)
    changed = fingerprint(folder)
    assert None not in (first, changed) and changed != first
    (folder / file).write_text(before)
    assert fingerprint(folder) == first
