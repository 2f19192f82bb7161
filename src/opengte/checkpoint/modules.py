"""The modules of sentence-transformers in a checkpoint's folder: which there are, what they say."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opengte import hub, weights
from opengte.arch.config_values import ACTIVATIONS
from opengte.arch.plan import (
    Activation,
    Dense,
    LayerMix,
    Norm,
    Pooling,
    PoolingKind,
    UnitLength,
)
from opengte.checkpoint_checks import check_module_types
from opengte.checkpoint_files import read_json_config, read_optional_json
from opengte.checkpoint_keys import check_keys
from opengte.errors import CheckpointError, UnsupportedModelError

# in the order in which sentence-transformers puts the results of several end to end
POOLING_MODES: dict[str, PoolingKind] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt",
    "weightedmean": "weighted",
    "lasttoken": "last",
}
LAYER_NORM_EPS = 1e-5  # of torch.nn.LayerNorm, which has no setting in the module's file
WEIGHTED = ("Dense", "LayerNorm")  # modules of the pooled vector that have tensors
CHECKED = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "WeightedLayerPooling")


@dataclass(frozen=True)
class Module:
    """One module: its type without the package, and its folder."""

    kind: str
    folder: Path


@dataclass(frozen=True)
class ModuleChain:
    """The modules of a model, in order; `listed` is False where there is no modules.json."""

    modules: tuple[Module, ...]
    listed: bool

    def first(self, kind: str) -> Module | None:
        """Return the first module of a kind."""
        return next((module for module in self.modules if module.kind == kind), None)

    @property
    def steps(self) -> tuple[Module, ...]:
        """Return the modules that change the pooled vector."""
        return tuple(m for m in self.modules if m.kind in ("Dense", "LayerNorm", "Normalize"))


def read_modules(folder: Path) -> ModuleChain:
    """Return the modules of a folder; without modules.json, a pooling that may be there."""
    path = folder / "modules.json"
    if not path.is_file():
        return ModuleChain((Module("Pooling", folder / "1_Pooling"),), listed=False)
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        named = [(str(m["type"]), str(m.get("path", ""))) for m in modules]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"`{path}` is not a list of modules: {error!r}") from None
    check_module_types(path, [kind for kind, _ in named])
    for _, name in named:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"`{path}` names a folder outside the checkpoint: {name!r}")
    found = [Module(kind.rsplit(".", 1)[-1], folder / name) for kind, name in named]
    return ModuleChain(tuple(found), listed=True)


def check_modules(folder: Path, chain: ModuleChain) -> None:
    """Warn of what modules.json and the settings of modules say and is not applied."""
    path = folder / "modules.json"
    for entry in json.loads(path.read_bytes()) if chain.listed else []:
        check_keys(hub.origin(path), entry)
    for module in chain.modules:
        if module.kind in CHECKED:
            file = module.folder / "config.json"
            check_keys(hub.origin(file), read_optional_json(file), kind=module.kind)


def read_pooling(folder: Path) -> Pooling | None:
    """Return how the module in a folder pools; None if it does not say."""
    config = read_optional_json(folder / "config.json")
    named = config.get("pooling_mode")  # newer files have one word, or a list
    modes: list[Any] = [named] if isinstance(named, str) else list(named or ())
    if not modes:
        modes = [mode for mode, key in _legacy_keys().items() if config.get(key) is True]
        known = {*_legacy_keys().values(), "pooling_mode"}
        modes += [
            key
            for key, on in config.items()
            if key.startswith("pooling_mode_") and on is True and key not in known
        ]
    for mode in modes:
        if mode not in POOLING_MODES:
            raise UnsupportedModelError(
                f"`{folder / 'config.json'}` sets {mode!r}, expected of "
                f"{', '.join(POOLING_MODES)} or pooling_mode_... of the same"
            )
    kinds = tuple(POOLING_MODES[mode] for mode in modes)
    return kinds[0] if len(kinds) == 1 else kinds or None


def _legacy_keys() -> dict[str, str]:
    """Return the keys that older files set to true, by the mode that they mean."""
    ends = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens"}
    ends["weightedmean"] = "weightedmean_tokens"
    return {mode: f"pooling_mode_{ends.get(mode, mode)}" for mode in POOLING_MODES}


def read_steps(chain: ModuleChain) -> tuple[tuple[str, Dense | Norm | UnitLength], ...]:
    """Return what happens to the pooled vector, each step with the name of its folder.

    Scaling to unit length at the end is left out: every vector is scaled.
    """
    found: list[tuple[str, Dense | Norm | UnitLength]] = []
    for module in chain.steps:
        if module.kind == "Dense":
            found.append((module.folder.name, read_dense(module.folder)))
        elif module.kind == "LayerNorm":
            found.append((module.folder.name, Norm("layer", LAYER_NORM_EPS, bias=True)))
        else:
            found.append((module.folder.name, UnitLength()))
    while found and isinstance(found[-1][1], UnitLength):
        found.pop()
    return tuple(found)


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


def read_layer_mix(chain: ModuleChain, layers: int, keeps_states: bool) -> LayerMix | None:
    """Return the mean over layers that a WeightedLayerPooling module computes.

    None if there is no such module, or if the network does not hand it the states of all layers
    (`output_hidden_states`): sentence-transformers then leaves it out.
    """
    module = chain.first("WeightedLayerPooling")
    if module is None or not keeps_states:
        return None
    path = module.folder / "config.json"
    config = read_json_config(path)
    start, count = config.get("layer_start", 4), config.get("num_hidden_layers", 12)
    if count != layers or not isinstance(start, int) or not 0 <= start <= layers:
        raise UnsupportedModelError(
            f"`{path}`: `num_hidden_layers` is {count!r} and `layer_start` {start!r}, expected "
            f"{layers}, the layers of the network, and a layer from 0 to {layers}"
        )
    return LayerMix(start)


def module_weights(folder: Path) -> Path:
    """Return the weight file of the module in a folder."""
    return weights.weight_files(folder)[0]
