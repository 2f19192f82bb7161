"""Collecting the results of batches: in input order, normalised and checked."""

from typing import Any

import numpy as np
import numpy.typing as npt

from opengte import embedding_ops
from opengte.encoder.token_pooling import pool_tokens
from opengte.engine.base import EngineResult
from opengte.errors import EngineError
from opengte.tokenization.late import LateSettings
from opengte.types import Embeddings, Floats, Ints, Output, PackedBatch, Role, Tokenized


class ResultCollector:
    """Collects the results of batches in input order; late and role decide the token vectors."""

    def __init__(
        self,
        count: int,
        wanted: frozenset[Output],
        size: int,
        normalize: bool = True,
        late: LateSettings | None = None,
        role: Role | None = None,
    ) -> None:
        self._normalize = normalize
        self._late, self._role = late or LateSettings(), role
        self._dense = np.empty((count, size), np.float32) if "dense" in wanted else None
        self._sparse: list[dict[int, float]] | None = [{}] * count if "sparse" in wanted else None
        empty = np.empty((0, 0), np.float32)
        self._tokens: list[Floats] | None = [empty] * count if "tokens" in wanted else None
        self._states: list[Floats] | None = [empty] * count if "states" in wanted else None

    def add(
        self,
        indices: npt.NDArray[np.intp],
        batch: PackedBatch,
        result: EngineResult,
        special: frozenset[int],
    ) -> None:
        """Add the results of one batch, given the input index of each of its sequences.

        EngineError if a vector is not finite.
        """
        if self._dense is not None and result.dense is not None:
            dense = result.dense[:, : self._dense.shape[1]]
            dense = embedding_ops.l2_normalise(dense) if self._normalize else dense
            check_finite(dense, "vector")
            self._dense[indices] = dense
        if self._sparse is None and self._tokens is None and self._states is None:
            return
        bounds = batch.cu_seqlens.tolist()
        for place, index in enumerate(indices.tolist()):
            span = slice(bounds[place], bounds[place + 1])
            if self._sparse is not None and result.sparse is not None:
                self._sparse[index] = _heaviest(batch.ids[span], result.sparse[span], special)
            if self._tokens is not None and result.tokens is not None:
                self._tokens[index] = late_vectors(
                    self._late, self._role, batch.ids[span], result.tokens[span]
                )
            if self._states is not None and result.states is not None:
                self._states[index] = result.states[span].copy()

    def row(
        self, index: int
    ) -> tuple[Floats | None, dict[int, float] | None, Floats | None, Floats | None]:
        """Return the dense vector, sparse weights, token vectors and states of one text."""
        return (
            None if self._dense is None else self._dense[index],
            None if self._sparse is None else self._sparse[index],
            None if self._tokens is None else self._tokens[index],
            None if self._states is None else self._states[index],
        )

    def result(self, tokenized: Tokenized) -> Embeddings:
        """Return the results of all texts."""
        return Embeddings(
            dense=self._dense,
            sparse=None if self._sparse is None else tuple(self._sparse),
            tokens=None if self._tokens is None else tuple(self._tokens),
            states=None if self._states is None else tuple(self._states),
            token_counts=tokenized.batch.lengths,
            truncated=tokenized.truncated,
            repaired=tokenized.repaired,
        )


def late_vectors(late: LateSettings, role: Role | None, ids: Ints, vectors: Floats) -> Floats:
    """Return the vectors of one text that are scored, from those of all its tokens (t, d)."""
    kept = vectors[late.scored(ids, role)]
    if late.normalised:
        kept = embedding_ops.l2_normalise(kept)
    if role == "query" or late.pool_factor <= 1:
        return kept
    return pool_tokens(
        kept, late.pool_factor, protected=late.protected, normalise=late.pooled_normalised
    )


def _heaviest(ids: npt.NDArray[Any], weights: Floats, special: frozenset[int]) -> dict[int, float]:
    """Return the largest weight of each token id; special tokens and zeros are left out."""
    best: dict[int, float] = {}
    for token, weight in zip(ids.tolist(), weights.tolist(), strict=True):
        if weight > best.get(token, 0.0) and token not in special:
            best[token] = weight
    return best


def check_finite(values: Floats, what: str) -> None:
    """Raise EngineError if a value is not finite."""
    if not np.isfinite(values).all():
        raise EngineError(
            f"the engine gave a {what} that is not finite: an activation overflowed. "
            "Load the model with precision='fp32' or 'bf16'."
        )
