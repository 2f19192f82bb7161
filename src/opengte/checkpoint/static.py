"""Folders of static models: a table of word vectors with a tokenizer, and no network."""

from pathlib import Path
from typing import Any

from opengte import weights
from opengte.checkpoint_files import read_optional_json
from opengte.errors import CheckpointError
from opengte.hub import file_selection

TABLES = ("embedding.weight", "embeddings")  # of StaticEmbedding, and of Model2Vec


def is_static(folder: Path) -> bool:
    """Return whether a folder holds a static model, by its config.json and modules.json."""
    config = read_optional_json(folder / "config.json")
    return config.get("model_type") == "model2vec" or file_selection.is_static(folder, folder)


def static_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a static model, empty if there is none, with the sizes of its table."""
    opened = weights.open_weights(folder, {})
    if opened.pickles:
        raise CheckpointError(
            f"`{folder}` keeps its word vectors in a pickle, which is not read for static models. "
            "Save the model again as safetensors."
        )
    table = next((opened.tensors[name] for name in TABLES if name in opened.tensors), None)
    if table is None or len(table.shape) != 2:
        raise CheckpointError(
            f"model.safetensors of `{folder}` has no table of word vectors: expected a matrix "
            f"`{TABLES[0]}` (StaticEmbedding) or `{TABLES[1]}` (Model2Vec)"
        )
    mapping = opened.tensors.get("mapping")
    rows = mapping.shape[0] if mapping is not None and mapping.shape else table.shape[0]
    config = read_optional_json(folder / "config.json")
    kind = "model2vec" if TABLES[0] not in opened.tensors else "static"
    return config | {"model_type": kind, "vocab_size": rows, "hidden_size": table.shape[1]}
