"""The modules of sentence-transformers in a checkpoint's folder: pooling and projections."""

import json
from pathlib import Path

from opengte import hub, weights
from opengte.arch.config_values import ACTIVATIONS
from opengte.arch.plan import Activation, Dense, PoolingKind
from opengte.checkpoint_checks import check_module_types
from opengte.checkpoint_files import read_json_config, read_optional_json
from opengte.checkpoint_keys import check_keys
from opengte.errors import CheckpointError, UnsupportedModelError

POOLING_MODES: dict[str, PoolingKind] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


def read_modules(folder: Path) -> tuple[Path, list[Path]]:
    """Return the folder of the pooling module and those of the projections after it."""
    path = folder / "modules.json"
    if not path.is_file():
        return folder / "1_Pooling", []
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        types = [str(m["type"]) for m in modules]
        kinds = [(str(m["type"]).rsplit(".", 1)[-1], str(m.get("path", ""))) for m in modules]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"`{path}` is not a list of modules: {error!r}") from None
    pooling, dense = folder / "1_Pooling", []
    check_module_types(path, types)
    for kind, name in kinds:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"`{path}` names a folder outside the checkpoint: {name!r}")
        if kind == "Pooling":
            pooling = folder / name
        elif kind == "Dense":
            dense.append(folder / name)
    return pooling, dense


def check_modules(folder: Path, pooling: Path) -> None:
    """Warn of what modules.json and the settings of modules say and is not applied."""
    path = folder / "modules.json"
    modules = json.loads(path.read_bytes()) if path.is_file() else []
    places = [(str(m["type"]).rsplit(".", 1)[-1], folder / str(m.get("path", ""))) for m in modules]
    for module in modules:
        check_keys(hub.origin(path), module)
    for kind, place in places or [("Pooling", pooling)]:
        if kind in ("Pooling", "Dense", "Normalize"):
            file = place / "config.json"
            check_keys(hub.origin(file), read_optional_json(file), kind=kind)


def read_pooling(folder: Path) -> PoolingKind | None:
    """Return how the module in a folder pools; None if it does not say."""
    config = read_optional_json(folder / "config.json")
    named = config.get("pooling_mode")  # newer files have one word
    modes = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    if isinstance(named, str):
        modes = ["pooling_mode_" + {"cls": "cls_token", "mean": "mean_tokens"}.get(named, named)]
    if not modes:
        return None
    if len(modes) > 1 or modes[0] not in POOLING_MODES:
        raise UnsupportedModelError(
            f"`{folder / 'config.json'}` sets {', '.join(modes)}, expected one of "
            f"{', '.join(POOLING_MODES)}"
        )
    return POOLING_MODES[modes[0]]


def read_dense(folder: Path) -> Dense:
    """Return the projection of the module in a folder."""
    config = read_json_config(folder / "config.json")
    function = str(config.get("activation_function", "torch.nn.modules.linear.Identity"))
    name = function.rsplit(".", 1)[-1].lower()
    outputs = config.get("out_features")
    if name != "identity" and name not in ACTIVATIONS or not isinstance(outputs, int):
        raise UnsupportedModelError(
            f"`{folder / 'config.json'}`: activation {function!r} and out_features {outputs!r}, "
            f"expected Identity, {', '.join(ACTIVATIONS)} and a whole number"
        )
    activation: Activation = "identity" if name == "identity" else ACTIVATIONS[name]
    return Dense(outputs, config.get("bias", True) is True, activation)


def module_weights(folder: Path) -> Path:
    """Return the weight file of the module in a folder."""
    return weights.weight_files(folder)[0]
