"""The contract between what computes a plan and everything above it.

An engine sees ids, never strings; packed batches, never padding. It pools and applies the model's
heads; normalising, cutting and sorting results is the caller's work.
"""

from dataclasses import dataclass
from typing import Protocol

from opengte.types import Floats, Output, PackedBatch


@dataclass(frozen=True, eq=False)
class EngineResult:
    """What one batch gave; an output that was not asked for is None.

    dense (n, d) float32, pooled and projected, not normalised; sparse (t,) float32, a weight >= 0
    per token; tokens (t, d') float32, not normalised; states (t, width) float32; score (n,)
    float32.
    """

    dense: Floats | None = None
    sparse: Floats | None = None
    tokens: Floats | None = None
    states: Floats | None = None
    score: Floats | None = None


class Engine(Protocol):
    """Runs one loaded model; safe to call from several threads."""

    name: str  # "torch", "native"
    precision: str  # "fp32", "bf16", "fp16", "int8"
    device: str
    threads: int
    max_batch_tokens: int  # tokens a batch should have for the best throughput

    def run(self, batch: PackedBatch, outputs: frozenset[Output]) -> EngineResult:
        """Compute the wanted outputs of an encoder."""
        ...

    def score(self, batch: PackedBatch) -> EngineResult:
        """Compute the scores of a reranker's pairs."""
        ...
