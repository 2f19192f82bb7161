"""Running a batch of flights, and finding out which of them an engine fails on."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from opengte import embedding_ops
from opengte.encoder import Encoder, Reranker
from opengte.encoder.results import ResultCollector, check_finite
from opengte.engine.base import Engine, EngineResult
from opengte.errors import EngineError, InputError
from opengte.serve.inference.types import Failed, Flight, Result, Row, Spec
from opengte.types import PackedBatch

log = logging.getLogger(__name__)

DENSE = frozenset(("dense",))
FAILED = "the engine failed on the input"

Run = Callable[[Sequence[Flight]], list[Row]]


def pack(flights: Sequence[Flight]) -> PackedBatch:
    """Lay the flights' tokens end to end."""
    cu_seqlens = np.zeros(len(flights) + 1, dtype=np.int32)
    np.cumsum([flight.tokens for flight in flights], out=cu_seqlens[1:])
    pool_from = np.array([flight.pool_from for flight in flights], dtype=np.int32)
    if len(flights) == 1:
        return PackedBatch(flights[0].ids, cu_seqlens, flights[0].type_ids, pool_from)
    return PackedBatch(
        np.concatenate([flight.ids for flight in flights]),
        cu_seqlens,
        np.concatenate([flight.type_ids for flight in flights]),
        pool_from,
    )


def compute(model: Encoder | Reranker, engine: Engine, flights: Sequence[Flight]) -> list[Row]:
    """Compute flights of one kind in one batch; EngineError when a value is not finite."""
    batch = pack(flights)
    outputs = flights[0].spec.outputs
    if not outputs:
        scores = engine.score(batch).score
        assert scores is not None
        check_finite(scores, "score")
        return [
            Row(flight.found, flight.tokens, score=score)
            for flight, score in zip(flights, scores.tolist(), strict=True)
        ]
    result = engine.run(batch, outputs)
    _check(result, batch)
    specs = {id(flight.spec): flight.spec for flight in flights}
    if len(specs) == 1:
        return _rows(model, flights[0].spec, flights, batch, result)
    rows: dict[int, Row] = {}
    for spec in specs.values():
        places = [i for i, flight in enumerate(flights) if flight.spec is spec]
        chosen = np.array(places, dtype=np.intp)
        own = [flights[i] for i in places]
        part = _rows(model, spec, own, batch.select(chosen), _select(result, batch, chosen))
        rows.update(zip(places, part, strict=True))
    return [rows[i] for i in range(len(flights))]


def _check(result: EngineResult, batch: PackedBatch) -> None:
    """Raise EngineError for results of another length than the batch, or not finite ones."""
    tokens = len(batch.ids)
    for name, length in (
        ("dense", len(batch)),
        ("sparse", tokens),
        ("tokens", tokens),
        ("states", tokens),
    ):
        values = getattr(result, name)
        if values is None:
            continue
        if len(values) != length:
            raise EngineError(f"the engine gave {len(values)} rows of {name} for {length}")
        if name != "dense":  # those are checked when they are normalised
            check_finite(values, f"value of {name}")


def _rows(
    model: Encoder | Reranker,
    spec: Spec,
    flights: Sequence[Flight],
    batch: PackedBatch,
    result: EngineResult,
) -> list[Row]:
    if spec.outputs == DENSE and result.dense is not None:  # the most common, in half the time
        dense = result.dense[:, : spec.size]
        dense = embedding_ops.l2_normalise(dense) if spec.normalize else dense
        check_finite(dense, "vector")
        return [Row(f.found, f.tokens, row) for f, row in zip(flights, dense, strict=True)]
    rows = ResultCollector(len(flights), spec.outputs, spec.size, spec.normalize)
    rows.add(np.arange(len(flights)), batch, result, model.tokenizer.special_ids)
    return [Row(flight.found, flight.tokens, *rows.row(i)) for i, flight in enumerate(flights)]


def _select(result: EngineResult, batch: PackedBatch, chosen: npt.NDArray[np.intp]) -> EngineResult:
    """Return the results of some sequences of a batch."""
    marks = np.zeros(len(batch), dtype=bool)
    marks[chosen] = True  # chosen is in order, so that a mask keeps it
    tokens = np.repeat(marks, batch.lengths)
    return EngineResult(
        dense=None if result.dense is None else result.dense[chosen],
        sparse=None if result.sparse is None else result.sparse[tokens],
        tokens=None if result.tokens is None else result.tokens[tokens],
        states=None if result.states is None else result.states[tokens],
    )


def isolate(
    flights: Sequence[Flight], run: Run, healthy: Callable[[], str | None]
) -> tuple[list[Result], int, str | None]:
    """Compute flights, by halves where the engine fails, so that only the bad ones fail.

    Returns a result a flight, the number of faults, and why the engine is sick if it fails on
    known good input too (`healthy` says so).
    """
    try:
        return list(run(flights)), 0, None
    except BaseException as error:  # an engine may raise anything, and its thread must go on
        if len(flights) == 1:
            return _alone(flights[0], run, healthy, error)
    half = len(flights) // 2
    left, left_faults, sick = isolate(flights[:half], run, healthy)
    if sick is not None:
        rest = [Failed(EngineError(FAILED))] * (len(flights) - half)
        return [*left, *rest], left_faults + 1, sick
    right, right_faults, sick = isolate(flights[half:], run, healthy)
    return left + right, left_faults + right_faults + 1, sick


def _alone(
    flight: Flight, run: Run, healthy: Callable[[], str | None], error: BaseException
) -> tuple[list[Result], int, str | None]:
    """Try a flight once more on its own; blame it only when the engine is otherwise well."""
    log.error("the engine failed on an input of %d tokens", flight.tokens, exc_info=error)
    try:
        return list(run([flight])), 1, None
    except BaseException as again:
        sick = healthy()
        refused = InputError(str(again)) if isinstance(again, InputError) else None
        return [Failed(refused or EngineError(FAILED), poison=sick is None)], 2, sick
