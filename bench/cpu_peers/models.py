"""The folders that the shapes are run from, and what the peers are given in their place."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from random_checkpoint import SHAPES, write

from cpu_peers.catalog import Shape
from opengte import checkpoint, hub
from opengte.arch.plan import Plan

TOKENIZER_FILES = ("tokenizer.json", "special_tokens_map.json", "vocab.txt")
ROWS = 30528  # of the embedding: what the tokenizer of all shapes uses; it costs no operations


@dataclass(frozen=True)
class Model:
    """A shape on disk: OpenGTE's folder, the peers' folder, where artifacts go."""

    shape: Shape
    folder: Path
    peer_folder: Path
    artifacts: Path
    plan: Plan


def make(shape: Shape, cache: Path) -> Model:
    """Write or reuse the folders of a shape."""
    artifacts = cache / shape.id / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    minilm = hub.fetch_model("minilm").folder
    if not shape.random:
        folder = peer_folder = minilm
    else:
        folder = _once(cache / shape.id / shape.id, lambda path: _random(shape, path, minilm))
        peer_folder = _once(cache / shape.id / "peers", lambda path: _for_peers(folder, path))
    return Model(shape, folder, peer_folder, artifacts, checkpoint.read_checkpoint(folder).plan)


def _once(path: Path, make: Any) -> Path:
    """Make a folder under another name first, so that a half-written one is never used."""
    if not path.is_dir():
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        make(partial)
        partial.rename(path)
    return path


def _random(shape: Shape, path: Path, tokenizer: Path) -> None:
    """Write a checkpoint of random weights with a real tokenizer, the same for all shapes."""
    config = {**SHAPES[shape.random], "vocab_size": ROWS, "pad_token_id": 0}
    if shape.layers:
        config["num_hidden_layers"] = shape.layers
    if config["model_type"] == "qwen2":
        config["is_causal"] = False
    write(path, config, 1, shape.dtype)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, path / name)
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    settings["model_max_length"] = config["max_position_embeddings"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    mode = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}[shape.pooling]
    (path / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))


def _for_peers(folder: Path, path: Path) -> None:
    """Link a checkpoint's files, under the model type that transformers knows them by."""
    path.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file() and file.name != "config.json":
            (path / file.name).symlink_to(file.absolute())
    config = json.loads((folder / "config.json").read_text())
    config.pop("auto_map", None)
    if config["model_type"] == "new":
        config |= {"model_type": "gte", "architectures": ["GteModel"]}
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    (path / "config.json").write_text(json.dumps(config))
