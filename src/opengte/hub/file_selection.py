"""Which files of a repository make up a checkpoint, and which of them a folder lacks."""

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

# The folder of a sentence-transformers module: 1_Pooling, 2_Dense, 2_Dense_1024.
MODULE_FOLDER = re.compile(r"((query|document)_)?\d+_\w+")

_SHARD = r"-\d+-of-\d+"
_WANTED = re.compile(
    r"(config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|modules"
    r"|config_sentence_transformers|sentence_[a-z-]+_config|adapter_config|generation_config|router_config)\.json"
    r"|vocab\.txt|merges\.txt|README\.md|.+\.model|adapter_model\.(safetensors|bin)"
    rf"|model({_SHARD})?\.safetensors|model\.safetensors\.index\.json"
    rf"|pytorch_model({_SHARD})?\.bin|pytorch_model\.bin\.index\.json"
    r"|(sparse|colbert)_linear\.(pt|safetensors)"
)
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_SINGLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


def select_files(names: Iterable[str]) -> list[str]:
    """Return the files of a repository that a model is loaded from, weights last.

    They include no code, ONNX, OpenVINO, TensorFlow, Flax or GGUF files, and pickled weights only
    from a folder without safetensors. Weights come last, so that a folder with weights has the
    other files too.
    """
    wanted = [PurePosixPath(name) for name in names if _is_wanted(name)]
    chosen = [path for path in wanted if not _is_superseded(path, wanted)]
    return [
        str(path) for path in sorted(chosen, key=lambda path: (is_weight_file(path.name), path))
    ]


def is_weight_file(name: str) -> bool:
    """Return whether a file holds tensors, judged by its name."""
    return name.endswith(_WEIGHT_SUFFIXES)


def is_model_weights(name: str) -> bool:
    """Return whether a file holds the weights of the model itself, not of a module or a head."""
    return name.startswith(("model", "pytorch_model")) and is_weight_file(name) and "/" not in name


def is_adapter_weights(name: str) -> bool:
    """Return whether a file holds the tensors of an adapter."""
    return name in ADAPTER_WEIGHTS


def model_folder(names: Iterable[str]) -> str | None:
    """Return where a repository has its configuration and weights: "" or, as in "0_Transformer/".

    An adapter counts: it has a base with the rest. None if it is nowhere.
    """
    files = set(names)
    if {"modules.json", "router_config.json"} <= files:
        return ""
    inner = sorted({name.partition("/")[0] + "/" for name in files if name.startswith("0_")})
    for folder in ("", *inner):
        here = {name.removeprefix(folder) for name in files if name.startswith(folder)}
        if "config.json" in here and any(map(is_model_weights, here)):
            return folder
        # a static model has modules.json and a table of word vectors, but no settings
        if {"modules.json"} & files and "tokenizer.json" in here and "model.safetensors" in here:
            return folder
        if "adapter_config.json" in here and any(map(is_adapter_weights, here)):
            return folder
    return None


def missing_files(folder: Path) -> list[str]:
    """Return the files that a checkpoint folder lacks, judged by its own files.

    Without `modules.json`, pooling files are not expected. An adapter may leave out anything but
    its tensors.
    """
    if (folder / "router_config.json").is_file():
        return []  # what its encoders lack is said when they are read
    place = folder / (model_folder(_names(folder)) or "")
    if (place / "adapter_config.json").is_file():
        return _missing_modules(folder)
    described = (place / "config.json").is_file() or is_static(folder, place)
    lacking = [] if described else ["config.json"]
    if not any(any(place.glob(pattern)) for pattern in _TOKENIZERS):
        lacking.append("tokenizer.json")
    return lacking + _missing_modules(folder) + _missing_weights(place)


def is_static(folder: Path, place: Path) -> bool:
    """Return whether modules.json in a folder says that its first module is a static model.

    place is the folder of that module.
    """
    try:
        kind = str(json.loads((folder / "modules.json").read_bytes())[0]["type"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    return kind.endswith(".StaticEmbedding") and (place / "tokenizer.json").is_file()


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


def _is_wanted(name: str) -> bool:
    folder, _, base = name.rpartition("/")
    return bool(_WANTED.fullmatch(base)) and (not folder or bool(MODULE_FOLDER.fullmatch(folder)))


def _is_superseded(path: PurePosixPath, wanted: list[PurePosixPath]) -> bool:
    """Return whether the folder has the same weights in a preferred format."""
    names = {other.name for other in wanted if other.parent == path.parent}
    if path.name == "adapter_model.bin":
        return "adapter_model.safetensors" in names
    if path.name.startswith("pytorch_model"):
        better = {name for name in names if name.endswith(".safetensors")}
        return bool(better) or _is_part_beside(path.name, "pytorch_model.bin", names)
    return _is_part_beside(path.name, "model.safetensors", names)


def _is_part_beside(name: str, single: str, names: set[str]) -> bool:
    stem, _, suffix = single.rpartition(".")
    parts = re.compile(rf"{stem}{_SHARD}\.{suffix}|{stem}\.{suffix}\.index\.json")
    return single in names and bool(parts.fullmatch(name))


def _missing_weights(folder: Path) -> list[str]:
    if any((folder / name).is_file() for name in _SINGLE_WEIGHTS):
        return []
    for name in _SINGLE_WEIGHTS:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [shard for shard in _shards(index) if not (folder / shard).is_file()]
    return ["model.safetensors"]


def _shards(index: Path) -> list[str]:
    try:
        return sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError):
        return [f"{index.name} (unreadable)"]


def _missing_modules(folder: Path) -> list[str]:
    listing = folder / "modules.json"
    if not listing.is_file():
        return []
    try:
        entries = json.loads(listing.read_bytes())
        modules = [(str(entry["path"]), str(entry["type"])) for entry in entries]
    except (ValueError, KeyError, TypeError):
        return ["modules.json (unreadable)"]
    # of the modules with a folder, only these two have files in it
    kept = [path for path, kind in modules if path and kind.endswith((".Pooling", ".Dense"))]
    return [f"{path}/config.json" for path in kept if not (folder / path / "config.json").is_file()]
