"""Random initial weights, for training from scratch."""

import torch
from torch import Tensor

from opengte.arch.plan import Plan
from opengte.reference.model import ReferenceModel


def init_model(plan: Plan, seed: int, *, std: float = 0.02) -> ReferenceModel:
    """Build a model with random weights in float32, in training mode."""
    with torch.device("meta"):
        model = ReferenceModel(plan)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for slot, parameter in model.named_parameters():
            parameter.copy_(init_weight(slot, tuple(parameter.shape), generator, std))
    return model.train()


def init_weight(
    slot: str, shape: tuple[int, ...], generator: torch.Generator, std: float = 0.02
) -> Tensor:
    """Return an initial weight: zeros for a bias, ones for a norm, otherwise normal numbers."""
    if slot.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    return torch.empty(shape).normal_(0.0, std, generator=generator)
