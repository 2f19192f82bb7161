"""Loading a model for the service: its lanes, its speed, and the bounds that follow from them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from opengte import encoder as encoders
from opengte.encoder import Encoder, Reranker
from opengte.engine.base import Engine
from opengte.engine.native import NativeEngine
from opengte.errors import InputError
from opengte.serve.config.inference import ModelSettings
from opengte.serve.inference import memory
from opengte.serve.inference.admission import LEAST_QUEUE, Backlog
from opengte.serve.inference.batching import compute
from opengte.serve.inference.scheduler import Policy
from opengte.serve.inference.throughput import Pace
from opengte.serve.inference.tokenization import tokenise
from opengte.serve.inference.types import Flight, Sequences, Source, Spec, salt
from opengte.serve.inference.workers import Engines

Model = Encoder | Reranker
Load = Callable[[ModelSettings], Model]

CANARY = "the quick brown fox jumps over the lazy dog"
CANARY_REPEATED = 16  # words enough for a batch that shows the speed
TEAM_SECONDS = 1.0  # the longest that all threads may be kept from everybody else
SLICE_SECONDS = 0.01  # what urgent work may have to wait for
LEAST_SLICE, MOST_SLICE = 128, 256  # tokens: below, matrix products lose; above, nothing is won
EXPRESS_TOKENS = 64  # of a batch that overtakes what is being computed
CPU_SLICE_SECONDS, LEAST_CPU_SLICE = 0.05, 512  # for other engines on a CPU


@dataclass(frozen=True)
class Opened:
    """A model with its engines, ready to run."""

    model: Model
    engines: Engines
    pace: Pace
    policy: Policy
    batch_tokens: int
    backlog: Backlog


def load(settings: ModelSettings) -> Model:
    """Load the model that the settings name."""
    return encoders.load_model(
        settings.source,
        kind=settings.kind,
        engine=settings.engine,
        precision=settings.precision,
        threads=settings.threads,
        device=settings.device,
        revision=settings.revision,
        max_length=settings.max_length,
        offline=settings.offline,
    )


def open_model(settings: ModelSettings, load: Load, memory_share: float = 1.0) -> Opened:
    """Load a model, run it once, and derive its bounds. Takes a while: for a thread.

    memory_share is how much of the free memory this process may plan with.
    """
    model = load(settings)
    engine = model.engine
    native = isinstance(engine, NativeEngine)
    lanes: tuple[Engine, ...] = (engine,)
    if native and engine.threads > 1:
        lanes = tuple(encoders.load_another_engine(model, threads=1) for _ in range(engine.threads))
    express = encoders.load_another_engine(model, threads=1) if native else None
    pace = _measure(model, lanes, express)
    free = memory.free_bytes()
    share = None if free is None else int(free * memory_share)
    most = settings.max_batch_tokens or memory.batch_tokens(
        model.checkpoint.plan, engine.max_batch_tokens, share
    )
    slice_tokens = min(most, _slice(pace, native, engine.device))
    longest = model.card.max_length
    team_tokens = int(pace.drain_rate * TEAM_SECONDS)
    return Opened(
        model=model,
        engines=Engines(
            lanes,
            engine if len(lanes) > 1 else None,
            team_tokens,
            max(slice_tokens, min(MOST_SLICE, most)),
            express=express,
            express_tokens=min(EXPRESS_TOKENS, most),
            relieved=native,
        ),
        pace=pace,
        policy=Policy(slice_tokens=slice_tokens),
        batch_tokens=most,
        backlog=Backlog(pace, settings.max_queue_tokens, max(LEAST_QUEUE, 4 * longest)),
    )


def canary(model: Model) -> Callable[[], Flight]:
    """Return what makes flights of a known short text, which any engine that is well computes.

    They count as older than all that waits.
    """
    spec, found = _words(model, CANARY)
    return lambda: _flight(spec, found, CANARY)


def _flight(spec: Spec, found: Sequences, text: str) -> Flight:
    batch = found.batch
    flight = Flight(len(batch.ids), spec.outputs, spec=spec, source=text)
    flight.ids, flight.type_ids, flight.found = batch.ids, batch.type_ids, len(batch.ids)
    return flight


def _words(model: Model, text: str) -> tuple[Spec, Sequences]:
    if isinstance(model, Reranker):
        spec = Spec(frozenset(), 0, salt("canary"), cached=False)
        found = tokenise(model, spec, [_source(model, text)])[0]
    else:
        spec = Spec(frozenset(("dense",)), model.card.dimension, salt("canary"), cached=False)
        found = tokenise(model, spec, [_source(model, text)])[0]
    if isinstance(found, InputError):
        raise found
    return spec, found


def _source(model: Model, text: str) -> Source:
    return (text, text) if isinstance(model, Reranker) else text


def _measure(model: Model, lanes: tuple[Engine, ...], express: Engine | None) -> Pace:
    """Run every engine once; return the speed of one lane, on more tokens where that is quick."""
    engines = [model.engine, *(lane for lane in lanes if lane is not model.engine)]
    engines += [express] if express is not None else []
    seconds, tokens = 0.0, 1
    for engine in engines:
        tokens, seconds = _time(model, engine, CANARY)
    if seconds < 0.02:
        tokens, seconds = min(
            (_time(model, lanes[0], " ".join([CANARY] * CANARY_REPEATED)) for _ in range(2)),
            key=lambda measured: measured[1] / measured[0],
        )
    tokenise(model, _words(model, CANARY)[0], [_source(model, CANARY)] * 8)  # wakes its threads
    return Pace(tokens, seconds, len(lanes))


def _time(model: Model, engine: Engine, text: str) -> tuple[int, float]:
    spec, found = _words(model, text)
    flight = _flight(spec, found, text)
    started = time.perf_counter()
    compute(model, engine, [flight])
    return flight.tokens, time.perf_counter() - started


def _slice(pace: Pace, native: bool, device: str) -> int:
    """Return the tokens of a batch that others may have to wait for."""
    if native:
        return max(LEAST_SLICE, min(MOST_SLICE, int(pace.lane_rate * SLICE_SECONDS)))
    if device == "cpu":
        return max(LEAST_CPU_SLICE, int(pace.lane_rate * CPU_SLICE_SECONDS))
    return 1 << 30  # a GPU needs all it can get
