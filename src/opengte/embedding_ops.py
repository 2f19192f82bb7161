"""Operations around `Embeddings`: deduplicated inputs, joined windows, normalised vectors."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from opengte.types import Embeddings, Floats

Item = TypeVar("Item")


def deduplicate(items: Sequence[Item]) -> tuple[list[Item], npt.NDArray[np.intp]]:
    """Return the distinct items in order of appearance, and the index (n,) of each item in them."""
    places: dict[Item, int] = {}
    inverse = np.fromiter(
        (places.setdefault(item, len(places)) for item in items), dtype=np.intp, count=len(items)
    )
    return list(places), inverse


def expand_duplicates(result: Embeddings, inverse: npt.NDArray[np.intp]) -> Embeddings:
    """Return the results of all texts from those of the distinct ones: undo `deduplicate`."""
    if len(result) == len(inverse):
        return result
    lost = {record.index: record for record in result.truncated}
    repaired = set(result.repaired)
    return Embeddings(
        dense=None if result.dense is None else result.dense[inverse],
        sparse=_spread(result.sparse, inverse),
        tokens=_spread(result.tokens, inverse),
        states=_spread(result.states, inverse),
        token_counts=result.token_counts[inverse],
        truncated=tuple(
            replace(lost[j], index=i) for i, j in enumerate(inverse.tolist()) if j in lost
        ),
        repaired=tuple(i for i, j in enumerate(inverse.tolist()) if j in repaired),
    )


def _spread(
    values: tuple[Item, ...] | None, inverse: npt.NDArray[np.intp]
) -> tuple[Item, ...] | None:
    return None if values is None else tuple(values[i] for i in inverse.tolist())


def shift_indices(result: Embeddings, offset: int) -> Embeddings:
    """Add an offset to the indices in `truncated` and `repaired`."""
    if offset == 0 or not (result.truncated or result.repaired):
        return result
    return Embeddings(
        result.dense,
        result.sparse,
        result.tokens,
        result.states,
        result.token_counts,
        tuple(replace(r, index=r.index + offset) for r in result.truncated),
        tuple(index + offset for index in result.repaired),
    )


def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
    """Join consecutive windows whose indices already count from the start."""
    first = parts[0]
    if len(parts) == 1:
        return first

    return Embeddings(
        dense=None if first.dense is None else np.concatenate([p.dense for p in parts]),
        sparse=_chain(first.sparse, (p.sparse for p in parts)),
        tokens=_chain(first.tokens, (p.tokens for p in parts)),
        states=_chain(first.states, (p.states for p in parts)),
        token_counts=np.concatenate([p.token_counts for p in parts]),
        truncated=tuple(chain.from_iterable(p.truncated for p in parts)),
        repaired=tuple(chain.from_iterable(p.repaired for p in parts)),
    )


def _chain(
    first: tuple[Item, ...] | None, parts: Iterable[tuple[Item, ...] | None]
) -> tuple[Item, ...] | None:
    if first is None:
        return None
    return tuple(chain.from_iterable(part for part in parts if part is not None))


def l2_normalise(vectors: Floats) -> Floats:
    """Scale vectors (..., d) to unit length; a zero vector stays zero."""
    norms = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))[..., None]
    result: Floats = vectors / np.maximum(norms, np.float32(1e-12))
    return result
