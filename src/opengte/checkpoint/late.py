"""The modules of a late-interaction checkpoint: projections of token states, not a pooling."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from opengte import arch, hub
from opengte.arch.plan import Dense, Plan
from opengte.arch.tensors import TensorNaming
from opengte.checkpoint.modules import module_weights, read_dense
from opengte.checkpoint_files import (
    read_json_config,
    read_optional_json,
    sentence_config,
)
from opengte.checkpoint_keys import check_keys
from opengte.errors import CheckpointError, UnsupportedModelError
from opengte.tokenization.late import LateFiles, LateSettings

OWN = ("Transformer", "Dense", "MultiVectorMask", "Normalize", "HierarchicalTokenPooling")
PYLATE_DENSE = "pylate.models.Dense.Dense"


def read_late_files(folder: Path) -> LateFiles | None:
    """Return the settings of a late-interaction checkpoint, None for any other."""
    path = folder / "modules.json"
    if not path.is_file():
        return None
    sentence = read_optional_json(folder / "config_sentence_transformers.json")
    try:
        modules = [
            (str(m["type"]), folder / str(m.get("path", ""))) for m in json.loads(path.read_bytes())
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # whoever reads it next says so
    kinds = [name.rsplit(".", 1)[-1] for name, _ in modules]
    named = sentence.get("model_type") in ("ColBERT", "MultiVectorEncoder")
    late = named or PYLATE_DENSE in dict(modules) or "MultiVectorMask" in kinds
    if "Pooling" in kinds or not late:
        return None
    _check_types(path, modules, kinds)
    places = list(zip(kinds, (place for _, place in modules), strict=True))
    return LateFiles(
        folder=folder,
        sentence=sentence,
        transformer=read_optional_json(sentence_config(folder)),
        later={kind: _settings(kind, place) for kind, place in places if kind in OWN[2:]},
        dense=tuple(place for kind, place in places if kind == "Dense"),
    )


def _check_types(path: Path, modules: list[tuple[str, Path]], kinds: list[str]) -> None:
    order = [OWN.index(kind) if kind in OWN else -1 for kind in kinds]
    for name, place in modules:
        known = name == PYLATE_DENSE or name.startswith("sentence_transformers.")
        if not known or name.rsplit(".", 1)[-1] not in OWN:
            raise UnsupportedModelError(
                f"`{path}` lists the module {name!r}, expected of a late-interaction model only "
                f"{', '.join(OWN)}. Code of its own is not run."
            )
        if path.parent.resolve() not in (place.resolve(), *place.resolve().parents):
            raise CheckpointError(f"`{path}` names a folder outside the checkpoint: {str(place)!r}")
    if order[:1] != [0] or order.count(0) > 1 or 1 in order[1:] and order.index(1) != 1:
        raise UnsupportedModelError(
            f"`{path}` lists the modules {', '.join(kinds)}, expected Transformer, then any number "
            "of Dense, then the others"
        )


def _settings(kind: str, place: Path) -> dict[str, Any]:
    file = place / "config.json"
    settings = read_optional_json(file)
    check_keys(hub.origin(file), settings, kind="late" if kind != "Normalize" else "late Normalize")
    return settings


def late_plan(
    plan: Plan, naming: TensorNaming, files: LateFiles
) -> tuple[Plan, TensorNaming, dict[str, Path]]:
    """Add the projections of token states to an encoder's plan, and the files they are in."""
    dense = tuple((path.name, _projection(path)) for path in files.dense)
    width = dense[-1][1].outputs if dense else plan.width
    plan = replace(
        plan,
        pooling=None,
        token_width=width,
        token_dense=tuple(one for _, one in dense),
    )
    weights = {path.name: module_weights(path) for path in files.dense}
    return plan, arch.with_modules(naming, dense, slot="tokens"), weights


def _projection(folder: Path) -> Dense:
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"`{folder.parent / 'modules.json'}` lists the projection `{folder.name}`, but "
            f"`{folder / 'config.json'}` does not exist; expected in_features, out_features and, "
            "beside it, model.safetensors. Fetch the checkpoint again."
        )
    settings = read_json_config(folder / "config.json")
    check_keys(hub.origin(folder / "config.json"), settings, kind="late Dense")
    return replace(read_dense(folder), residual=settings.get("use_residual") is True)


def check_expansion(plan: Plan, late: LateSettings, folder: Path) -> None:
    """Refuse an expansion whose tokens would see nothing, or that is longer than the positions."""
    expansion = late.expansion
    if expansion is None:
        return
    windows = [layer.attention.window for layer in plan.layers]
    narrow = min((window for window in windows if window is not None), default=None)
    unseen = not expansion.attend and narrow is not None and narrow < expansion.length
    if unseen or expansion.length > plan.max_positions:
        room = narrow if unseen else plan.max_positions
        raise UnsupportedModelError(
            f"`{folder}` expands queries to {expansion.length} tokens, but a token sees at most "
            f"{room}. Lower the length of query_expansion, or query_length."
        )
