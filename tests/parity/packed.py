"""Packed batches through an engine, and their comparison with an oracle, one sequence at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opengte import checkpoint
from opengte.engine import torch as torch_engine
from opengte.engine.base import Engine
from opengte.types import Floats, Output, PackedBatch
from tests.parity.oracle import Array, Ids, random_ids

FP32 = 1e-5  # largest difference of states of unit size
EDGES = (1, 2, 3, 17, 511, 512)
LONG = (1, 2, 3, 511, 512, 520)


def rows_of(lengths: Sequence[int]) -> list[Ids]:
    """Return one random sequence of each length."""
    return [random_ids(length, seed) for seed, length in enumerate(lengths)]


def pack(
    rows: Sequence[Ids], types: Sequence[Ids] | None = None, skip: Sequence[int] | None = None
) -> PackedBatch:
    """Lay the rows end to end; `skip` is `pool_from`."""
    ids = np.concatenate(rows)
    cu_seqlens = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    type_ids = np.concatenate(types) if types is not None else np.zeros_like(ids)
    pool_from = np.asarray(skip if skip is not None else [0] * len(rows), dtype=np.int32)
    return PackedBatch(ids, cu_seqlens, type_ids.astype(np.int32), pool_from)


def unpack(flat: Array, batch: PackedBatch) -> list[Array]:
    """Cut per-token results into one array per sequence."""
    return np.split(flat, batch.cu_seqlens[1:-1])


def load(folder: Path, *, precision: str = "fp32", kind: Any = None) -> Engine:
    """Load a folder into the torch engine, on the CPU."""
    return torch_engine.load_torch_engine(
        checkpoint.read_checkpoint(folder, kind=kind), precision=precision, device="cpu"
    )


def run(engine: Engine, batch: PackedBatch, *outputs: Output) -> list[Floats]:
    """Return the named outputs, and check that there are no others."""
    result = vars(engine.run(batch, frozenset(outputs)))
    assert {name for name, value in result.items() if value is not None} == set(outputs)
    return [result[name] for name in outputs]


def states(engine: Engine, batch: PackedBatch) -> list[Array]:
    """Return the token states of every sequence."""
    return unpack(run(engine, batch, "states")[0], batch)


def dense(engine: Engine, batch: PackedBatch) -> Floats:
    """Return the vector of every sequence."""
    return run(engine, batch, "dense")[0]


def scores(engine: Engine, batch: PackedBatch) -> Floats:
    """Return the score of every pair."""
    found = engine.score(batch).score
    assert found is not None
    return found


def close(found: Array, wanted: Array, tolerance: float = FP32, what: str = "") -> None:
    """Compare one float32 result with its oracle."""
    assert found.dtype == np.float32
    assert found.shape == wanted.shape, what
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance, err_msg=what)


def check_states(
    engine: Engine,
    rows: Sequence[Ids],
    wanted: Callable[[Ids], Array],
    *,
    tolerance: float = FP32,
) -> None:
    """Run all rows as one packed batch and compare each with the oracle's row alone."""
    for row, found in zip(rows, states(engine, pack(rows)), strict=True):
        close(found, wanted(row), tolerance, f"{len(row)} tokens")
