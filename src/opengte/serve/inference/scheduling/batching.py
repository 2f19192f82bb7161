"""Computes a batch of inputs, and isolates the inputs on which an engine fails."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from opengte import embedding_ops
from opengte.encoder import Encoder, Reranker
from opengte.encoder.results import ResultCollector, check_finite
from opengte.engine.base import Engine, EngineResult
from opengte.errors import EngineError, InputError
from opengte.serve.inference.types import (
    FailedInput,
    InputOutcome,
    InputResult,
    PendingInput,
    RequestOptions,
)
from opengte.types import PackedBatch

log = logging.getLogger(__name__)

DENSE_ONLY = frozenset(("dense",))
ENGINE_FAILED = "the engine failed on the input"

Run = Callable[[Sequence[PendingInput]], list[InputResult]]
Probe = Callable[[], str | None]


def pack_inputs(inputs: Sequence[PendingInput]) -> PackedBatch:
    """Concatenate the tokens of the inputs to a packed batch."""
    cu_seqlens = np.zeros(len(inputs) + 1, dtype=np.int32)
    np.cumsum([pending.tokens for pending in inputs], out=cu_seqlens[1:])
    pool_from = np.array([pending.pool_from for pending in inputs], dtype=np.int32)
    attended = None
    if any(pending.attended for pending in inputs):
        counts = [pending.attended or pending.tokens for pending in inputs]
        attended = np.array(counts, dtype=np.int32)
    if len(inputs) == 1:
        return PackedBatch(inputs[0].ids, cu_seqlens, inputs[0].type_ids, pool_from, attended)
    return PackedBatch(
        np.concatenate([pending.ids for pending in inputs]),
        cu_seqlens,
        np.concatenate([pending.type_ids for pending in inputs]),
        pool_from,
        attended,
    )


def compute_batch(
    model: Encoder | Reranker, engine: Engine, inputs: Sequence[PendingInput]
) -> list[InputResult]:
    """Compute inputs that need the same outputs in one batch.

    Raises EngineError if a value is not finite.
    """
    batch = pack_inputs(inputs)
    outputs = inputs[0].options.outputs
    if not outputs:
        scores = engine.score(batch).score
        assert scores is not None
        check_finite(scores, "score")
        return [
            _result(pending)._replace(score=score)
            for pending, score in zip(inputs, scores.tolist(), strict=True)
        ]
    result = engine.run(batch, outputs)
    _check_result(result, batch)
    distinct = {id(pending.options): pending.options for pending in inputs}
    if len(distinct) == 1:
        return _results(model, inputs[0].options, inputs, batch, result)
    results: dict[int, InputResult] = {}
    for options in distinct.values():
        indices = [i for i, pending in enumerate(inputs) if pending.options is options]
        selected = np.array(indices, dtype=np.intp)
        own = [inputs[i] for i in indices]
        part = _results(
            model, options, own, batch.select(selected), _select(result, batch, selected)
        )
        results.update(zip(indices, part, strict=True))
    return [results[i] for i in range(len(inputs))]


def _check_result(result: EngineResult, batch: PackedBatch) -> None:
    """Raise EngineError for results of the wrong length, or with values that are not finite."""
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
        if name != "dense":  # dense vectors are checked after normalisation
            check_finite(values, f"value of {name}")


def _results(
    model: Encoder | Reranker,
    options: RequestOptions,
    inputs: Sequence[PendingInput],
    batch: PackedBatch,
    result: EngineResult,
) -> list[InputResult]:
    if options.outputs == DENSE_ONLY and result.dense is not None:  # the common case, twice as fast
        dense = result.dense[:, : options.size]
        dense = embedding_ops.l2_normalise(dense) if options.normalize else dense
        check_finite(dense, "vector")
        return [_result(pending, vector) for pending, vector in zip(inputs, dense, strict=True)]
    collector = ResultCollector(
        len(inputs),
        options.outputs,
        options.size,
        options.normalize,
        late=model.late,
        role=options.role,
    )
    collector.add(np.arange(len(inputs)), batch, result, model.tokenizer.special_ids)
    return [_result(pending, *collector.row(i)) for i, pending in enumerate(inputs)]


def _result(pending: PendingInput, *vectors: Any) -> InputResult:
    """Return the result of an input with its dense, sparse, token and state vectors."""
    found = InputResult(pending.original_length, pending.tokens, *vectors)
    return found._replace(at_least=True) if pending.at_least else found


def _select(
    result: EngineResult, batch: PackedBatch, selected: npt.NDArray[np.intp]
) -> EngineResult:
    """Return the results of some sequences of a batch, given in ascending order."""
    mask = np.zeros(len(batch), dtype=bool)
    mask[selected] = True
    tokens = np.repeat(mask, batch.lengths)
    return EngineResult(
        dense=None if result.dense is None else result.dense[selected],
        sparse=None if result.sparse is None else result.sparse[tokens],
        tokens=None if result.tokens is None else result.tokens[tokens],
        states=None if result.states is None else result.states[tokens],
    )


def isolate_failures(
    inputs: Sequence[PendingInput], run: Run, probe: Probe
) -> tuple[list[InputOutcome], int, str | None]:
    """Compute inputs; where the engine fails, bisect the batch so that only bad inputs fail.

    Returns an outcome for each input, the number of engine faults, and the reason if the engine
    fails on everything: `probe` computes a known good input and returns why that failed, or None.
    """
    try:
        return list(run(inputs)), 0, None
    except BaseException as error:  # an engine may raise anything, and its thread must go on
        if len(inputs) == 1:
            return _retry_alone(inputs[0], run, probe, error)
    half = len(inputs) // 2
    left, left_faults, engine_failure = isolate_failures(inputs[:half], run, probe)
    if engine_failure is not None:
        rest = [FailedInput(EngineError(ENGINE_FAILED))] * (len(inputs) - half)
        return [*left, *rest], left_faults + 1, engine_failure
    right, right_faults, engine_failure = isolate_failures(inputs[half:], run, probe)
    return left + right, left_faults + right_faults + 1, engine_failure


def _retry_alone(
    pending: PendingInput, run: Run, probe: Probe, error: BaseException
) -> tuple[list[InputOutcome], int, str | None]:
    """Retry one input; it is to blame only if the engine still computes a known good input."""
    log.error("the engine failed on an input of %d tokens", pending.tokens, exc_info=error)
    try:
        return list(run([pending])), 1, None
    except BaseException as again:
        engine_failure = probe()
        input_error = InputError(str(again)) if isinstance(again, InputError) else None
        failed = input_error or EngineError(ENGINE_FAILED)
        return [FailedInput(failed, quarantine=engine_failure is None)], 2, engine_failure
