"""Models to train: the weights of a checkpoint in float32, with new heads where it has none."""

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from opengte.arch.plan import Plan
from opengte.checkpoint import Checkpoint
from opengte.errors import InputError, WeightsError
from opengte.reference.initialization import init_weight
from opengte.reference.load import as_tensor, read_pickle
from opengte.reference.model import ReferenceModel

log = logging.getLogger("opengte.train")

HEADS = ("sparse", "token_width", "score", "masked", "dense")
HEAD_SLOTS = ("sparse.", "tokens.", "score.", "masked.", "dense.")


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """Initial weights: those of the checkpoint for slots that it has, random for the rest."""

    stored: Checkpoint
    shared: frozenset[str]  # slots that are in the files
    seed: int
    std: float

    def fill(self, model: ReferenceModel) -> None:
        """Give every weight of a model its value; of sharded weights, the rows of this process."""
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for slot, parameter in model.named_parameters():
                if slot not in self.shared:
                    values = init_weight(slot, tuple(parameter.shape), generator, self.std)
                    _put(parameter, 0, values)
            for chunk in self.stored.chunks(read_pickle):
                if chunk.slot in self.shared:
                    values = as_tensor(chunk.values, chunk.dtype)
                    _put(model.get_parameter(chunk.slot), chunk.row, values)


def build_trainable(
    checkpoint: Checkpoint, plan: Plan | None = None, *, seed: int = 0, std: float = 0.02
) -> tuple[ReferenceModel, InitialWeights]:
    """Return a model to train without values (on the meta device), and the weights that fill it.

    plan is the checkpoint's plan with other heads, pooling or positions (RoPE). Heads that the
    files do not have start random, which is logged. Raises InputError if the shape of a weight of
    the body differs. A model that is larger than one process's memory is sharded first, then
    filled.
    """
    wanted = plan or checkpoint.plan
    stored = checkpoint
    for head in HEADS:
        value = getattr(wanted, head)
        if value and not getattr(checkpoint.plan, head):
            candidate = replace(stored, plan=replace(stored.plan, **{head: value}))
            if _has(candidate):
                stored = candidate
    shared = _shared(wanted, stored)
    new = sorted(set(wanted.slots()) - shared)
    if new:
        log.info("these weights of `%s` start random: %s", checkpoint.name, ", ".join(new))
    with torch.device("meta"):
        model = ReferenceModel(wanted)
    return model, InitialWeights(stored, shared, seed, std)


def load_trainable(
    checkpoint: Checkpoint, plan: Plan | None = None, *, seed: int = 0, std: float = 0.02
) -> ReferenceModel:
    """Load a checkpoint to train, in float32 and training mode; see `build_trainable`.

    >>> from opengte import checkpoint
    >>> model = load_trainable(checkpoint.read_checkpoint(folder))
    >>> model.training, next(model.parameters()).dtype
    (True, torch.float32)
    """
    model, start = build_trainable(checkpoint, plan, seed=seed, std=std)
    model.to_empty(device="cpu")
    start.fill(model)
    return model.train()


def _has(candidate: Checkpoint) -> bool:
    try:
        candidate.chunks(read_pickle)
    except WeightsError:
        return False
    return True


def _shared(wanted: Plan, stored: Checkpoint) -> frozenset[str]:
    """Return the slots that the model and the files share."""
    slots, shared = wanted.slots(), set()
    for slot, found in stored.plan.slots().items():
        if slot not in slots:
            continue
        if slots[slot].shape == found.shape:
            shared.add(slot)
        elif not slot.startswith(HEAD_SLOTS):
            raise InputError(
                f"plan gives `{slot}` the shape {slots[slot].shape}, but `{stored.name}` has "
                f"{found.shape}: only heads, pooling and positions may differ"
            )
    return frozenset(shared)


def _put(parameter: nn.Parameter, row: int, values: Tensor) -> None:
    """Copy rows into a parameter, starting at `row`; of a sharded one, those of this process."""
    if not isinstance(parameter, DTensor):
        parameter[row : row + len(values)].copy_(values)
        return
    local = parameter.to_local()
    each = -(-parameter.shape[0] // parameter.device_mesh.size())
    first = min(each * parameter.device_mesh.get_local_rank(), parameter.shape[0])
    start, stop = max(row, first), min(row + len(values), first + len(local))
    if start < stop:
        local[start - first : stop - first].copy_(values[start - row : stop - row])
