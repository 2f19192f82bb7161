"""Export of a trained model: a folder for `Encoder`, sentence-transformers and transformers."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from opengte import arch
from opengte.arch import export_layout
from opengte.arch.export_layout import ExportedTensor
from opengte.arch.plan import Dense, Plan
from opengte.errors import InputError, UnsupportedModelError
from opengte.reference import save
from opengte.reference.model import ReferenceModel
from opengte.tokenization.prompts import Prompts
from opengte.train.distributed import World
from opengte.train.saving.checkpoints import full_tensor
from opengte.train.saving.model_card import TrainedModelCard, write_model_card

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
_POOLING = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt": "pooling_mode_mean_sqrt_len_tokens",
    "weighted": "pooling_mode_weightedmean_tokens",
}
_MODULES = "sentence_transformers.models"
_ACTIVATIONS = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "gelu": "torch.nn.modules.activation.GELU",
    "relu": "torch.nn.modules.activation.ReLU",
    "silu": "torch.nn.modules.activation.SiLU",
}


@dataclass(frozen=True)
class ExportPackage:
    """What goes into the folder beside the weights.

    config is the config.json of the body; tokenizer is a folder with the tokenizer's files.
    """

    config: Mapping[str, Any]
    tokenizer: Path
    max_length: int
    prompts: Prompts
    card: TrainedModelCard
    late: Mapping[str, Any] | None = None  # the settings of PyLate, for late interaction
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"


def export_model(
    model: ReferenceModel, folder: Path, package: ExportPackage, world: World | None = None
) -> None:
    """Write a model to a folder; an existing folder is replaced.

    All processes call it, the first one writes. Raises InputError if config describes another
    network, or if the tokenizer's folder has no tokenizer.

    >>> from opengte import Encoder, checkpoint
    >>> from opengte.train import ExportPackage, TrainedModelCard, load_trainable
    >>> start = checkpoint.read_checkpoint(folder)
    >>> config = json.loads((start.folder / "config.json").read_text())
    >>> card = TrainedModelCard("my-model")
    >>> package = ExportPackage(config, start.folder, start.max_length, start.prompts, card)
    >>> export_model(load_trainable(start), Path("my-model"), package)
    >>> Encoder.load("my-model").card.dimension
    384
    """
    world = world or World()
    plan = model.plan
    _check(model, package)
    dtype = str(DTYPES[package.dtype]).removeprefix("torch.")
    config, written = export_files(plan, package.config, dtype)
    partial = folder.with_name(f".partial-{folder.name}")
    if world.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    for file, names in _files(written).items():
        part = {name: written[name] for name in names}
        _write(partial / file, part, model, DTYPES[package.dtype], world)
    if world.is_first:
        _write_json(partial / "config.json", config)
        _copy_tokenizer(package, partial)
        if plan.token_dense is not None:
            _write_late_modules(partial, plan, package)
        elif plan.score is None and plan.masked is None:
            _write_modules(partial, model, package)
        write_model_card(partial, package.card, model)
        _replace(partial, folder)
    world.wait()


def export_files(
    plan: Plan, base: Mapping[str, Any], dtype: str = "float32"
) -> tuple[dict[str, Any], dict[str, ExportedTensor]]:
    """Return config.json and the tensors to write for a plan; base is its model's config.json.

    Raises UnsupportedModelError for a model that cannot be written.
    """
    projections = _projections(plan)
    config = export_layout.export_config(plan, base, dtype)
    naming = arch.architecture_of(config).naming
    dense = tuple((f"{2 + i}_Dense", part) for i, part in enumerate(projections))
    naming = arch.with_modules(naming, dense)
    tokens = tuple((f"{1 + i}_Dense", part) for i, part in enumerate(plan.token_dense or ()))
    naming = arch.with_modules(naming, tokens, slot="tokens")
    return config, export_layout.export_tensors(plan, naming, str(config["model_type"]))


def _projections(plan: Plan) -> tuple[Dense, ...]:
    """Return the projections of the pooled vector; UnsupportedModelError for other modules."""
    found = tuple(step for step in plan.dense if isinstance(step, Dense))
    others = {
        "a static model": not plan.layers,
        "a model that pools several layers": plan.layer_mix is not None,
        "a model that puts several poolings end to end": len(plan.poolings) > 1,
        "a norm of the pooled vector before its last module": len(found) < len(plan.dense),
        "a classifier with several classes": plan.score is not None and plan.score.every,
    }
    if named := next((name for name, has in others.items() if has), None):
        raise UnsupportedModelError(f"{named} can be used, but not trained or written")
    return found


def _check(model: ReferenceModel, package: ExportPackage) -> None:
    described = arch.plan_of(package.config)
    same = replace(
        described,
        pooling=model.plan.pooling,
        dense=model.plan.dense,
        sparse=model.plan.sparse,
        token_width=model.plan.token_width,
        token_dense=model.plan.token_dense,
        score=model.plan.score,
        masked=model.plan.masked,
    )
    if same != model.plan:
        names = [
            name
            for name in ("embedding", "layers", "final_norm", "max_positions", "latent")
            if getattr(same, name) != getattr(model.plan, name)
        ]
        raise InputError(
            f"config describes another network than the model in {', '.join(names) or 'its kind'}: "
            "change config.json's settings as the plan was changed (rope_theta, for one)"
        )
    if not any((package.tokenizer / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"tokenizer is `{package.tokenizer}`, which has no tokenizer's files")


def _files(written: Mapping[str, ExportedTensor]) -> dict[str, list[str]]:
    """Return the tensors of each file: of the model, of side files, of projection folders."""
    files: dict[str, list[str]] = {}
    for name in written:
        side, _, _ = name.rpartition(":")
        file = save.FILE if not side else side if "." in side else f"{side}/{save.FILE}"
        files.setdefault(file, []).append(name)
    return files


def _write(
    path: Path,
    written: Mapping[str, ExportedTensor],
    model: ReferenceModel,
    dtype: torch.dtype,
    world: World,
) -> None:
    values = _values(written, model)
    if not world.is_first:
        for _ in values:  # sharded weights are put together by all processes
            pass
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {name.rpartition(":")[2]: (w.shape, dtype) for name, w in written.items()}
    save.write_safetensors(path, shapes, values)


def _values(written: Mapping[str, ExportedTensor], model: ReferenceModel) -> Iterator[Tensor]:
    for tensor in written.values():
        (slot,) = {part.slot for part in tensor.parts}
        value = full_tensor(model.get_parameter(slot)).detach()
        rows = [value[p.row : p.row + p.stop - p.start] for p in parts_by_start(tensor)]
        yield torch.cat(rows)


def parts_by_start(tensor: ExportedTensor) -> list[export_layout.SlotRows]:
    """Return a tensor's parts in the order of its rows."""
    return sorted(tensor.parts, key=lambda part: part.start)


def _copy_tokenizer(package: ExportPackage, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        path = package.tokenizer / name
        if path.is_file():
            shutil.copyfile(path, folder / name)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    _write_json(path, settings | {"model_max_length": package.max_length})


def _write_modules(folder: Path, model: ReferenceModel, package: ExportPackage) -> None:
    """Write the module files of sentence-transformers, which `Encoder` reads too."""
    plan = model.plan
    if plan.pooling not in _POOLING:
        raise InputError(f"pooling is {plan.pooling!r}, expected {', '.join(_POOLING)} to export")
    modes = {key: kind == plan.pooling for kind, key in _POOLING.items()}
    include = package.prompts.mask == "none"
    _write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": plan.width, **modes, "include_prompt": include},
    )
    inputs, modules = plan.width, [("", "Transformer"), ("1_Pooling", "Pooling")]
    for i, dense in enumerate(_projections(plan)):
        name = f"{2 + i}_Dense"
        modules.append((name, "Dense"))
        _write_json(folder / name / "config.json", _dense_settings(dense, inputs))
        inputs = dense.outputs
    modules.append((f"{len(modules)}_Normalize", "Normalize"))
    _write_json(folder / "modules.json", _listed(modules))
    _write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": package.max_length, "do_lower_case": False},
    )
    prompts = {"query": package.prompts.prefix("query"), "document": package.prompts.document}
    settings = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    if package.prompts.plain:
        prompts["plain"] = package.prompts.plain
        settings["default_prompt_name"] = "plain"
    _write_json(folder / "config_sentence_transformers.json", settings)


def _write_late_modules(folder: Path, plan: Plan, package: ExportPackage) -> None:
    """Write the module files of PyLate, which sentence-transformers reads too."""
    modules, inputs = _listed([("", "Transformer")]), plan.width
    for i, dense in enumerate(plan.token_dense or (), start=1):
        name = f"{i}_Dense"
        kind = {"idx": i, "name": str(i), "path": name, "type": "pylate.models.Dense.Dense"}
        modules.append(kind)
        settings = _dense_settings(dense, inputs) | {"use_residual": dense.residual}
        _write_json(folder / name / "config.json", settings)
        inputs = dense.outputs
    _write_json(folder / "modules.json", modules)
    _write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": package.max_length, "do_lower_case": False},
    )
    _write_json(folder / "config_sentence_transformers.json", dict(package.late or {}))


def _dense_settings(dense: Dense, inputs: int) -> dict[str, Any]:
    return {
        "in_features": inputs,
        "out_features": dense.outputs,
        "bias": dense.bias,
        "activation_function": _ACTIVATIONS[dense.activation],
    }


def _listed(modules: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"idx": i, "name": str(i), "path": path, "type": f"{_MODULES}.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _replace(partial: Path, folder: Path) -> None:
    """Put a finished folder in the place of an older one."""
    old = folder.with_name(f".removed-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
