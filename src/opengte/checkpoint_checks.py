"""What in a checkpoint's folder would change its vectors but is not applied: refused, or told.

Adapters, quantised weights and other kinds of models are errors that say what the folder holds.
Code of somebody's own is never run; a warning names it.
"""

import json
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from opengte.errors import CheckpointWarning, UnsupportedModelError, WeightsError

# classes in the code of published checkpoints that the architecture of this type computes
KNOWN_CODE = {
    "new": r"modeling\.New\w+",
    "gte": r"modeling\w*\.(New|Gte)\w+",
    "nvembed": r"modeling_nvembed\.\w+",
    "qwen2": r"modeling_qwen\.Qwen2\w+",
}
KNOWN_TOKENIZERS = r"tokenization_qwen\.Qwen2Tokenizer(Fast)?"
QUANTISED = ("quantization_config", "quantization", "compression_config")  # keys of config.json
QUANTISED_FILES = ("quantize_config.json", "quant_config.json")
QUANTISED_TENSOR = re.compile(
    r".*\.(qweight|qzeros|SCB|absmax|quant_map|quant_state\..+|weight_packed|weight_scale|scales)"
)
REMEDY = "Load the original checkpoint; the compiled engine makes its own int8 weights from it."


def check_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse quantised weights; warn of code that is not run, and of adapters in subfolders.

    Raises UnsupportedModelError.
    """
    _warn_of_adapters(folder)
    for key in QUANTISED:
        if settings := config.get(key):
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            raise UnsupportedModelError(
                f"config.json of `{folder}` has `{key}` ({method or str(settings)[:80]}): its "
                f"weights are quantised, which are not read. {REMEDY}"
            )
    for name in QUANTISED_FILES:
        if (folder / name).is_file():
            raise UnsupportedModelError(
                f"`{folder / name}` says that the weights are quantised, which are not read. "
                f"{REMEDY}"
            )
    _warn_of_code(folder, config)


def _warn_of_adapters(folder: Path) -> None:
    names = sorted(path.parent.name for path in folder.glob("*/adapter_config.json"))
    if names and not (folder / "adapter_config.json").is_file():
        warnings.warn(
            f"`{folder}` has adapters that are not applied: {', '.join(names)}. To apply one, put "
            "its files beside the weights, or give its own folder",
            CheckpointWarning,
            stacklevel=5,
        )


def refuse_quantised_tensors(folder: Path, names: Collection[str]) -> None:
    """Raise WeightsError if a tensor is one that only quantised checkpoints have."""
    if found := next(filter(QUANTISED_TENSOR.fullmatch, sorted(names)), None):
        raise WeightsError(
            f"the weights of `{folder}` are quantised (tensor `{found}`), which are not read. "
            f"{REMEDY}"
        )


def check_module_types(path: Path, types: Collection[str]) -> None:
    """Refuse modules of somebody's own code, and modules in another order.

    path is that of modules.json. Raises UnsupportedModelError.
    """
    kinds = [name.rsplit(".", 1)[-1] for name in types]
    for name in types:
        if not name.startswith("sentence_transformers."):
            raise UnsupportedModelError(
                f"`{path}` lists a module of type {name!r}, which is code of its own and is not "
                "run; expected modules of sentence_transformers"
            )
    spaced = "".join(f"{kind} " for kind in kinds)
    network = "(Transformer )?(Dropout )*(WeightedLayerPooling )?(Pooling )?|StaticEmbedding "
    if not re.fullmatch(f"({network})((Dense|LayerNorm|Dropout|Normalize) )*", spaced):
        raise UnsupportedModelError(
            f"`{path}` lists the modules {', '.join(kinds)}, expected Transformer (with "
            "WeightedLayerPooling if it has one) and Pooling, or StaticEmbedding; then any number "
            "of Dense, LayerNorm, Dropout and Normalize"
        )


def _warn_of_code(folder: Path, config: Mapping[str, Any]) -> None:
    kind = str(config.get("model_type"))
    _warn_of_map(folder / "config.json", config, "AutoModel", KNOWN_CODE.get(kind, r"(?!)"), kind)
    path = folder / "tokenizer_config.json"
    try:
        tokenizer = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return  # loading the tokenizer says it
    if isinstance(tokenizer, dict):
        _warn_of_map(path, tokenizer, "AutoTokenizer", KNOWN_TOKENIZERS, "tokenizer.json")


def _warn_of_map(
    path: Path, settings: Mapping[str, Any], key: str, known: str, instead: str
) -> None:
    entries = settings.get("auto_map")
    for name, value in (entries if isinstance(entries, dict) else {}).items():
        for code in value if isinstance(value, list) else [value]:
            place = str(code).rpartition("--")[2]  # in another repository: `org/name--module.Class`
            if code and name.startswith(key) and not re.fullmatch(known, place):
                warnings.warn(
                    f"`{path}` names code of its own (`auto_map`: {name} is {str(code)!r:.80}). It "
                    f"is not run: the model is computed as a plain `{instead}`, and its vectors "
                    "are wrong if that code differs",
                    CheckpointWarning,
                    stacklevel=6,
                )
                return
