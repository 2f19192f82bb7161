"""The interface of an engine.

An engine takes packed batches of token ids: no strings, no padding. It pools and applies the
model's heads. Its caller normalises, truncates and sorts the results.
"""

from dataclasses import dataclass
from typing import Protocol

from opengte.errors import EngineError
from opengte.types import Floats, Output, PackedBatch


@dataclass(frozen=True, eq=False)
class EngineResult:
    """The results of one batch; an output that was not requested is None.

    Attributes:
        dense: Pooled and projected vectors (n, d) float32, not normalised.
        sparse: A weight >= 0 of each token, (t,) float32.
        tokens: Late-interaction vectors (t, d') float32, not normalised.
        states: Final token states (t, width) float32.
        score: Scores of a reranker (n,) float32; of a classifier all logits (n, classes).
    """

    dense: Floats | None = None
    sparse: Floats | None = None
    tokens: Floats | None = None
    states: Floats | None = None
    score: Floats | None = None


class Engine(Protocol):
    """A loaded model that computes batches; safe to call from several threads."""

    name: str  # "torch", "native"
    precision: str  # "fp32", "bf16", "fp16", "int8"
    device: str
    threads: int
    max_batch_tokens: int  # the tokens of a batch with the best throughput

    def run(self, batch: PackedBatch, outputs: frozenset[Output]) -> EngineResult:
        """Compute the requested outputs of an encoder."""
        ...

    def score(self, batch: PackedBatch) -> EngineResult:
        """Compute the scores of a reranker's pairs."""
        ...


def cannot_be_pickled() -> EngineError:
    """Return the error that says what to pickle instead of an engine."""
    return EngineError(
        "an engine cannot be pickled: it has threads and mapped memory. Pickle its Encoder or "
        "Reranker, which opens the model's files again, or pass the model's name and load it there"
    )
