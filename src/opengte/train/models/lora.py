"""Low-rank adapters (LoRA, arXiv 2106.09685) on the layers of a model, by the library peft."""

from dataclasses import dataclass

import torch

from opengte.errors import InputError, MissingExtraError
from opengte.reference.model import ReferenceModel

LAYERS = r"layers\.\d+\.(qkv|out|up|down)"


@dataclass(frozen=True)
class Adapters:
    """Rank, scale (`alpha` / rank) and dropout of the adapters.

    Raises InputError for impossible values.

    >>> Adapters(rank=16, alpha=32.0).rank
    16
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise InputError(f"{self}; expected rank of at least 1, alpha above 0, dropout below 1")


def add_adapters(model: ReferenceModel, adapters: Adapters, seed: int) -> None:
    """Add adapters to all linear layers, in place; only they require gradients from then on."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingExtraError("peft", "train", "LoRA") from None
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.alpha,  # type: ignore[arg-type]
        lora_dropout=adapters.dropout,
        target_modules=LAYERS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)


def merge_adapters(model: ReferenceModel) -> None:
    """Add the adapters to the weights, and remove them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, module.get_base_layer())
    model.requires_grad_(True)
