"""Loads a model for the service: its engines, its throughput, and the limits derived from them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from opengte import encoder as encoders
from opengte.encoder import Encoder, Reranker
from opengte.engine import memory
from opengte.engine.base import Engine
from opengte.engine.native import NativeEngine
from opengte.errors import InputError, UnsupportedModelError
from opengte.serve.config.inference import ModelSettings
from opengte.serve.inference.preprocessing.tokenization import tokenize_inputs
from opengte.serve.inference.scheduling.admission import MIN_QUEUE_TOKENS, AdmissionController
from opengte.serve.inference.scheduling.batching import compute_batch
from opengte.serve.inference.scheduling.engine_threads import EngineSet
from opengte.serve.inference.scheduling.scheduler import SchedulerPolicy
from opengte.serve.inference.scheduling.throughput import Throughput
from opengte.serve.inference.types import (
    ModelInput,
    PendingInput,
    RequestOptions,
    salt,
)
from opengte.types import Output

Model = Encoder | Reranker
ModelLoader = Callable[[ModelSettings], Model]

CANARY = "the quick brown fox jumps over the lazy dog"
CANARY_REPEATS = 16  # words enough for a batch that shows the throughput
LONGEST_TEXT = 1 << 20  # tokens; the queue has room for several such texts of any model
ALL_THREADS_SECONDS = 1.0  # longest time for which one input may block all engine threads
SLICE_SECONDS = 0.01  # target duration of a batch: urgent inputs may have to wait for one
# Tokens of a batch: matrix products are slower below the first, and no faster above the second.
MIN_SLICE_TOKENS, MAX_SLICE_TOKENS = 128, 256
PRIORITY_TOKENS = 64  # of a batch of the priority thread
CPU_SLICE_SECONDS, CPU_MIN_SLICE_TOKENS = 0.05, 512  # for other engines than the native one


@dataclass(frozen=True)
class PreparedModel:
    """A model with its engines and limits, ready to run."""

    model: Model
    engines: EngineSet
    throughput: Throughput
    policy: SchedulerPolicy
    max_batch_tokens: int
    admission: AdmissionController


def load_model(settings: ModelSettings) -> Model:
    """Load the model that the settings describe.

    Raises UnsupportedModelError for one with an encoder of its own for queries, and for a
    classifier.
    """
    loaded = encoders.load_model(
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
    if loaded.checkpoint.routes is not None:
        raise UnsupportedModelError(
            f"`{settings.source}` has an encoder for queries and another one for documents, and a "
            "served model is one encoder. Use it with Encoder, `gte index` and `gte search`."
        )
    if loaded.card.labels:
        raise UnsupportedModelError(
            f"`{settings.source}` is a classifier with {len(loaded.card.labels)} classes, and a "
            "served reranker has one score. Use it with Reranker.classify."
        )
    return loaded


def prepare_model(
    settings: ModelSettings, load: ModelLoader, memory_share: float = 1.0
) -> PreparedModel:
    """Load a model, measure its throughput, and derive its limits. Slow: call it in a thread.

    memory_share is the share of the free memory that this process may use.
    """
    model = load(settings)
    engine = model.engine
    native = isinstance(engine, NativeEngine)
    per_thread: tuple[Engine, ...] = (engine,)
    if native and engine.threads > 1:
        per_thread = tuple(
            encoders.load_another_engine(model, threads=1) for _ in range(engine.threads)
        )
    priority = encoders.load_another_engine(model, threads=1) if native else None
    throughput = _measure(model, per_thread, priority)
    free = memory.free_bytes()
    available = None if free is None else int(free * memory_share)
    max_batch_tokens = settings.max_batch_tokens or memory.max_batch_tokens(
        model.checkpoint.plan, engine.max_batch_tokens, available
    )
    slice_tokens = min(max_batch_tokens, _slice_tokens(throughput, native, engine.device))
    longest = min(model.card.max_length, LONGEST_TEXT)
    min_queue_tokens = max(MIN_QUEUE_TOKENS, 4 * longest)
    return PreparedModel(
        model=model,
        engines=EngineSet(
            per_thread,
            all_threads=engine if len(per_thread) > 1 else None,
            all_threads_tokens=int(throughput.total_rate * ALL_THREADS_SECONDS),
            large_batch_tokens=max(slice_tokens, min(MAX_SLICE_TOKENS, max_batch_tokens)),
            priority=priority,
            priority_tokens=min(PRIORITY_TOKENS, max_batch_tokens),
        ),
        throughput=throughput,
        policy=SchedulerPolicy(slice_tokens=slice_tokens),
        max_batch_tokens=max_batch_tokens,
        admission=AdmissionController(throughput, settings.max_queue_tokens, min_queue_tokens),
    )


def canary(model: Model, text: str = CANARY) -> Callable[[], PendingInput]:
    """Return a factory of a known short input, which every healthy engine computes.

    The input counts as older than everything that waits.
    """
    pair = isinstance(model, Reranker)
    content: ModelInput = (text, text) if pair else text
    known: tuple[Output, ...] = ("dense",) if "dense" in model.card.outputs else ("tokens",)
    outputs: frozenset[Output] = frozenset(() if pair else known)
    options = RequestOptions(outputs, model.card.dimension, salt("canary"), cached=False)
    tokenized = tokenize_inputs(model, options, [content])[0]
    if isinstance(tokenized, InputError):
        raise tokenized
    batch, length = tokenized.batch, len(tokenized.batch.ids)
    return lambda: PendingInput(
        length,
        options.outputs,
        options=options,
        content=content,
        ids=batch.ids,
        type_ids=batch.type_ids,
        original_length=length,
    )


def _measure(model: Model, per_thread: tuple[Engine, ...], priority: Engine | None) -> Throughput:
    """Run every engine once; return the throughput, measured on a longer text if that is quick."""
    engines = [model.engine, *(engine for engine in per_thread if engine is not model.engine)]
    engines += [priority] if priority is not None else []
    short = canary(model)()
    seconds, tokens = 0.0, 1
    for engine in engines:
        tokens, seconds = _time(model, engine, short)
    if seconds < 0.02:
        longer = canary(model, " ".join([CANARY] * CANARY_REPEATS))()
        tokens, seconds = min(
            (_time(model, per_thread[0], longer) for _ in range(2)),
            key=lambda measured: measured[1] / measured[0],
        )
    tokenize_inputs(model, short.options, [short.content] * 8)  # starts the tokenizer's threads
    return Throughput(tokens, seconds, len(per_thread))


def _time(model: Model, engine: Engine, pending: PendingInput) -> tuple[int, float]:
    """Return the tokens of an input and the seconds that an engine takes for it."""
    started = time.perf_counter()
    compute_batch(model, engine, [pending])
    return pending.tokens, time.perf_counter() - started


def _slice_tokens(throughput: Throughput, native: bool, device: str) -> int:
    """Return the tokens of a batch that urgent inputs may have to wait for."""
    if native:
        target = int(throughput.engine_rate * SLICE_SECONDS)
        return max(MIN_SLICE_TOKENS, min(MAX_SLICE_TOKENS, target))
    if device == "cpu":
        return max(CPU_MIN_SLICE_TOKENS, int(throughput.engine_rate * CPU_SLICE_SECONDS))
    return 1 << 30  # a GPU needs batches as large as possible
