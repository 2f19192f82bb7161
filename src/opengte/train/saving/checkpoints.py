"""Checkpoints of a run: written whole or not at all, the same for any number of processes.

A checkpoint is a folder `step-00000120` with every weight, both moments of the optimiser and the
average of the weights, each as one whole tensor, and `state.json` with the rest. The order of data,
the learning rate and all random numbers are functions of the step, so that resuming needs nothing
else.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from opengte import weights
from opengte.atomic_files import sync_folder
from opengte.errors import CheckpointError, InputError
from opengte.reference import save
from opengte.reference.load import as_tensor
from opengte.train.distributed import World
from opengte.train.optim import WeightAverage

STATE = "state.json"
VERSION = 1


@dataclass
class TrainingProgress:
    """How far a run is: steps done, and the values that later steps depend on."""

    step: int = 0
    skipped: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)  # last losses of each source
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    since_best: int = 0  # evaluations


@dataclass(frozen=True, eq=False)
class TrainingState:
    """The objects whose tensors a checkpoint holds."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None


def list_checkpoints(run: Path) -> dict[int, Path]:
    """Return the complete checkpoints of a run by step, ascending."""
    complete = {}
    for path in run.glob("step-*"):
        match = re.fullmatch(r"step-(\d+)", path.name)
        if match and (path / STATE).is_file():
            complete[int(match[1])] = path
    return dict(sorted(complete.items()))


def save_checkpoint(
    run: Path,
    parts: TrainingState,
    progress: TrainingProgress,
    identity: Mapping[str, str],
    world: World,
) -> None:
    """Write a checkpoint: all processes call it, the first one writes.

    A process killed at any moment leaves the checkpoint complete or absent.
    """
    target = run / f"step-{progress.step:08d}"
    named = list(_tensors(parts))
    values = (full_tensor(tensor) for _, tensor in named)
    if not world.is_first:
        for _ in values:  # sharded tensors are put together by all processes
            pass
    elif not target.exists():
        partial = run / f".partial-{target.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        layout = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in named}
        save.write_safetensors(partial / save.FILE, layout, values)
        record = {"version": VERSION, "progress": asdict(progress), "identity": dict(identity)}
        _write_text(partial / STATE, json.dumps(record, indent=1))
        sync_folder(partial)
        partial.rename(target)
        sync_folder(run)
    else:
        for _ in values:
            pass
    world.wait()


def prune_checkpoints(run: Path, keep: int, best: int | None) -> None:
    """Remove all but the last `keep` checkpoints and the best one, and unfinished ones."""
    complete = list_checkpoints(run)
    kept = {*list(complete)[-keep:], best}
    for step, path in complete.items():
        if step not in kept:
            doomed = path.with_name(f".removed-{path.name}")
            path.rename(doomed)
    for path in [*run.glob(".removed-*"), *run.glob(".partial-*")]:
        shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(
    path: Path, parts: TrainingState, identity: Mapping[str, str] | None = None
) -> TrainingProgress:
    """Resume from a checkpoint: load it in place, and return the progress of the run.

    Raises InputError, naming the fields, if it belongs to a run with another identity, and
    CheckpointError if it is damaged or belongs to another model.
    """
    try:
        record = json.loads((path / STATE).read_text(encoding="utf-8"))
        progress = TrainingProgress(**record["progress"])
        if record["version"] != VERSION:
            raise ValueError(f"version {record['version']}, expected {VERSION}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"`{path / STATE}` cannot be read: {error!r}") from None
    if identity is not None:
        _check_identity(path, record["identity"], identity)
    _load(path, parts, progress.step - progress.skipped)
    return progress


def load_weights(path: Path, module: nn.Module, *, averaged: bool) -> None:
    """Load the weights of a checkpoint in place, or their average where the run has one."""
    stored = weights.open_safetensors(path / save.FILE)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            kind = "average" if averaged and weight.requires_grad else "weight"
            found = stored.get(f"{kind}/{name}")
            if found is None or found.shape != tuple(weight.shape):
                raise CheckpointError(f"`{path}` has no `{name}` of this model")
            values = as_tensor(found.file.read(found, 0, found.shape[0]), found.dtype)
            _place(weight.detach(), values)
            found.file.drop_pages(found.start, found.stop)


def recorded_identity(run: Path) -> dict[str, str]:
    """Return the identity in the last checkpoint of a run, empty without one that can be read."""
    for path in reversed(list_checkpoints(run).values()):
        try:
            return dict(json.loads((path / STATE).read_text(encoding="utf-8"))["identity"])
        except (OSError, ValueError, KeyError, TypeError):
            break
    return {}


def _check_identity(path: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if names:
        lines = [f"{name} was {found.get(name)}, now {wanted.get(name)}" for name in names]
        raise InputError(
            f"`{path.parent}` cannot be resumed with another configuration: {'; '.join(lines)}. "
            "Give the settings it was started with, or start in another folder."
        )


def _load(path: Path, parts: TrainingState, updates: int) -> None:
    stored = weights.open_safetensors(path / save.FILE)
    for weight in parts.module.parameters():
        if weight.requires_grad and not parts.optimiser.state[weight]:
            parts.optimiser.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
    missing = {name for name, _ in _tensors(parts)} ^ set(stored)
    if missing:
        raise CheckpointError(
            f"`{path / save.FILE}` and the model differ in `{sorted(missing)[0]}`: the checkpoint "
            "is of another model, or was started without an average of weights"
        )
    with torch.no_grad():
        for name, tensor in _tensors(parts):
            saved = stored[name]
            if saved.shape != tuple(tensor.shape):
                raise CheckpointError(f"`{path}`: `{name}` has shape {saved.shape}")
            values = as_tensor(saved.file.read(saved, 0, saved.shape[0]), saved.dtype)
            _place(tensor, values)
            saved.file.drop_pages(saved.start, saved.stop)
    for state in parts.optimiser.state.values():
        state["step"].fill_(float(updates))


def _place(tensor: Tensor, values: Tensor) -> None:
    if isinstance(tensor, DTensor):
        own = values.to(tensor.device)
        tensor.copy_(
            distribute_tensor(own, tensor.device_mesh, tensor.placements, src_data_rank=None)
        )
    else:
        tensor.copy_(values)


def _tensors(parts: TrainingState) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a run by name, in one order on all processes."""
    trained = []
    for name, weight in parts.module.named_parameters():
        yield f"weight/{name}", weight.detach()
        if weight.requires_grad:
            trained.append((name, weight))
    for name, weight in trained:
        state: dict[str, Any] = parts.optimiser.state.get(weight, {})
        for kind, key in (("mean", "exp_avg"), ("square", "exp_avg_sq")):
            value = state.get(key)
            yield f"{kind}/{name}", torch.zeros_like(weight) if value is None else value
    if parts.average is not None:
        for (name, _), value in zip(trained, parts.average.values, strict=True):
            yield f"average/{name}", value


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a possibly sharded tensor as a whole; all processes must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
