"""Merging of models: the average of their weights, or spherical interpolation between two.

Averaging is "model soups" (arXiv 2203.05482); Qwen3-Embedding merged its checkpoints by spherical
linear interpolation (slerp). Both are for models fine-tuned from the same one.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from opengte import checkpoint as checkpoints
from opengte import checkpoint_files
from opengte.checkpoint import Checkpoint
from opengte.errors import InputError
from opengte.reference.model import ReferenceModel
from opengte.train.models.loading import load_trainable
from opengte.train.saving.export import ExportPackage, export_model
from opengte.train.saving.model_card import TrainedModelCard

log = logging.getLogger("opengte.train")

PARALLEL = 1e-6  # sine of the angle below which an arc is a line


def average_models(
    models: Sequence[str | Path], folder: Path, weights: Sequence[float] = ()
) -> None:
    """Write the weighted mean of two models or more to a folder.

    weights default to equal ones and are normalised to sum to 1. Raises InputError for models that
    differ in architecture, size, pooling, heads or tokenizer.
    """
    shares = list(weights) or [1.0] * len(models)
    if len(models) < 2 or len(shares) != len(models):
        raise InputError(
            f"{len(models)} models and {len(shares)} weights; expected two models or more, and "
            "one weight for each"
        )
    if min(shares) < 0 or sum(shares) == 0:
        raise InputError(f"weights are {shares}, expected none below 0 and one above it")
    total, done = sum(shares), shares[0]
    merged, first = _opened(models[0])
    for path, share in zip(models[1:], shares[1:], strict=True):
        done += share
        part = share / done if done else 0.0
        _combine(merged, first, path, lambda a, b, part=part: a.lerp_(b, part))  # type: ignore[misc]
    told = ", ".join(
        f"`{m}` ({share / total:.3f})" for m, share in zip(models, shares, strict=True)
    )
    _written(merged, first, folder, f"The average of {told}.")


def slerp(a: str | Path, b: str | Path, folder: Path, t: float = 0.5) -> None:
    """Write the spherical interpolation of two models at t to a folder, tensor by tensor.

    t is 0 for the first model and 1 for the second. Raises InputError for models that differ in
    architecture, size, pooling, heads or tokenizer.
    """
    if not 0 <= t <= 1:
        raise InputError(f"t is {t}, expected 0 (the first model) to 1 (the second)")
    merged, first = _opened(a)
    _combine(merged, first, b, lambda x, y: x.copy_(slerp_tensor(x, y, t)))
    _written(merged, first, folder, f"At {t} of the arc (slerp) from `{a}` to `{b}`.")


def slerp_tensor(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return the spherical interpolation of two tensors at t, each taken as one vector.

    Nearly parallel tensors are interpolated linearly.

    >>> slerp_tensor(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    tensor([0.7071, 0.7071])
    """
    x, y = a.double(), b.double()
    lengths = x.norm() * y.norm()
    cosine = float((x * y).sum() / lengths) if lengths > 0 else 1.0
    angle = torch.arccos(torch.tensor(min(1.0, max(-1.0, cosine)), dtype=torch.float64))
    sine = torch.sin(angle)
    if sine < PARALLEL:
        return torch.lerp(x, y, t).to(a.dtype)
    point = (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / sine
    return point.to(a.dtype)


def _opened(path: str | Path) -> tuple[ReferenceModel, Checkpoint]:
    checkpoint = checkpoints.read_checkpoint(path)
    return load_trainable(checkpoint), checkpoint


def _combine(
    merged: ReferenceModel,
    first: Checkpoint,
    path: str | Path,
    step: Callable[[Tensor, Tensor], object],
) -> None:
    other, checkpoint = _opened(path)
    if checkpoint.plan != first.plan:
        raise InputError(
            f"`{path}` is another network than `{first.name}`: only models of the same "
            "architecture, size, pooling and heads can be merged"
        )
    if checkpoint.tokenizer.fingerprint != first.tokenizer.fingerprint:
        raise InputError(f"`{path}` has another tokenizer than `{first.name}`")
    with torch.no_grad():
        for name, value in merged.named_parameters():
            step(value.data, other.get_parameter(name).data)


def _written(merged: ReferenceModel, first: Checkpoint, folder: Path, notes: str) -> None:
    config = checkpoint_files.read_json_config(first.folder / "config.json")
    card = TrainedModelCard(
        name=folder.name, base_model=first.name, licence=first.licence, notes=notes
    )
    export_model(
        merged, folder, ExportPackage(config, first.folder, first.max_length, first.prompts, card)
    )
