"""The network that transformers loads, with pooling and normalisation, as one PyTorch module."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Sentence(torch.nn.Module):
    """Padded ids and mask, (n, length) each -> unit vectors (n, width)."""

    def __init__(self, body: torch.nn.Module, pooling: str) -> None:
        super().__init__()
        self.body = body
        self.pooling = pooling

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Run the network, pool its states and normalise the vectors."""
        states = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
        return torch.nn.functional.normalize(self._pool(states, mask).float(), dim=-1)

    def _pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.pooling == "cls":
            return states[:, 0]
        # sums over the mask, not an index: that exports to every format
        weights = mask
        if self.pooling == "last":
            after = torch.nn.functional.pad(mask[:, 1:], (0, 1))
            weights = mask - after
        chosen = weights.unsqueeze(-1).to(states.dtype)
        return (states * chosen).sum(1) / chosen.sum(1)


def load(folder: Path, pooling: str, precision: str, attention: str = "sdpa") -> Sentence:
    """Load a folder; a decoder whose config says so attends in both directions."""
    body = AutoModel.from_pretrained(
        folder, dtype=DTYPES[precision], attn_implementation=attention, local_files_only=True
    )
    return Sentence(both_ways(body), pooling).eval()


def both_ways(body: Any) -> Any:
    """Make attention bidirectional where the config asks for it.

    The mask follows the config; where it is left out, for a batch without padding, the attention
    function goes by the flag of each module instead.
    """
    body.config.use_cache = False
    if not getattr(body.config, "is_causal", True):
        for module in body.modules():
            if hasattr(module, "is_causal"):
                module.is_causal = False
    return body
