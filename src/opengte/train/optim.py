"""The optimiser: weight decay, learning-rate schedules, gradient norm, averages of weights."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

LearningRateSchedule = Literal["linear", "cosine", "wsd", "constant"]


def learning_rate(
    step: int,
    *,
    steps: int,
    peak: float,
    warmup: float,
    schedule: LearningRateSchedule,
    decay: float = 0.2,
    final: float = 0.0,
) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises linearly over the first `warmup` share of the steps to `peak`, then falls to `final *
    peak`: linearly, along a cosine, or with `wsd` (warmup-stable-decay, arXiv 2404.06395) only over
    the last `decay` share of the steps. `constant` stays at the peak.

    >>> [learning_rate(s, steps=4, peak=1.0, warmup=0.5, schedule="linear") for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    start = rising if schedule != "wsd" else max(rising, steps - math.ceil(decay * steps))
    if schedule == "constant" or step < start:
        return peak
    progress = (step - start) / max(1, steps - start)
    left = 1 - progress if schedule != "cosine" else (1 + math.cos(math.pi * progress)) / 2
    return peak * (final + (1 - final) * left)


def adamw(
    module: nn.Module, *, weight_decay: float, betas: tuple[float, float], epsilon: float
) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101) over the weights that require gradients.

    Vectors (biases, norms) have no weight decay.
    """
    weights = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=epsilon, fused=True)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the norm of all gradients together, a scalar, over all processes that share them."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class WeightAverage:
    """An exponential moving average of the weights that require gradients."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = [p for p in module.parameters() if p.requires_grad]
        self.values = [p.detach().clone() for p in self._weights]

    def update(self) -> None:
        """Move the average towards the current weights."""
        with torch.no_grad():
            present = [p.detach() for p in self._weights]
            torch._foreach_lerp_(self.values, present, 1 - self.decay)

    def exchange(self) -> None:
        """Swap the average and the weights; a second call swaps them back."""
        with torch.no_grad():
            for weight, value in zip(self._weights, self.values, strict=True):
                present = weight.detach().clone()
                weight.copy_(value)
                value.copy_(present)
