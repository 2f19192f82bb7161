"""What the server counts: the families of its metrics, their labels and their bounds."""

from collections.abc import Sequence
from typing import get_args

from opengte.serve.observability.metric_store import OTHER, Family
from opengte.serve.protocols.base import Kind

Label = tuple[str, tuple[str, ...]]

SECONDS = tuple(
    base * scale for scale in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0) for base in (1.0, 2.5, 5.0)
) + (100.0,)
COUNTS = tuple(float(4**power) for power in range(12))
TOKENS = tuple(float(2**power) for power in range(3, 21))
TEXTS = tuple(float(2**power) for power in range(15))
SHARES = tuple(step / 10 for step in range(1, 11))

STAGES = ("decode", "tokenize", "queue", "compute", "encode")
OPERATIONS = ("embed", "score", "tokenize", "decode")
CODES = tuple(
    str(code)
    for code in (200, 400, 401, 403, 404, 405, 408, 413, 422, 424, 429, 431, 499, 500, 503, 504)
) + (OTHER,)
REFUSALS = (
    *("headers_slow", "body_slow", "reader_slow", "headers_large", "connections"),
    "behind",  # the event loop
)
STORES = ("usage", "keys", "cache")

# what the service counts (Observer.count) -> the counter, and what is said of it
EVENTS = {
    "tokens": ("tokens", "Tokens computed"),
    "truncated": ("truncations", "Inputs that lost tokens"),
    "missing_instruction": ("missing_instructions", "Queries without the instruction they need"),
    "cache_hit": ("cache_hits", "Inputs answered from the cache"),
    "cache_miss": ("cache_misses", "Inputs that were not in the cache"),
    "duplicate": ("duplicates", "Inputs that shared the computation of an equal one"),
    "expired": ("expired", "Requests whose time ran out in the queue"),
    "cancelled": ("cancelled", "Requests whose client went away"),
    "refused_overload": ("refused_overload", "Requests refused because the queue was full"),
    "refused_poison": ("refused_poison", "Inputs refused because they broke a batch before"),
    "engine_fault": ("engine_faults", "Batches in which the engine failed"),
    "failed_input": ("failed_inputs", "Inputs that failed beside others that did not"),
}


KINDS = (*get_args(Kind), "cancelled", OTHER)


def families(models: Sequence[str], routes: Sequence[str]) -> list[Family]:
    """Return all metrics of a server with these models and routes."""
    model: Label = ("model", (*models, OTHER))
    route: Label = ("route", (*dict.fromkeys(routes), OTHER))
    return [
        *_requests(model, route),
        *(
            Family(f"opengte_{name}_total", "counter", f"{said}.", (model,))
            for name, said in EVENTS.values()
        ),
        *_batches(model),
        *_storage(),
        *_process(),
    ]


def _requests(model: Label, route: Label) -> list[Family]:
    operation = ("operation", OPERATIONS)
    return [
        Family("opengte_requests_total", "counter", "Requests answered.", (route, ("code", CODES))),
        Family(
            "opengte_request_seconds",
            "histogram",
            "Time from the headers to the end of the answer.",
            (route,),
            SECONDS,
        ),
        Family("opengte_requests_in_flight", "gauge", "Requests being answered."),
        Family(
            "opengte_operation_seconds",
            "histogram",
            "Time of the requests that compute and succeed, by what they ask for.",
            (operation,),
            SECONDS,
        ),
        Family(
            "opengte_operations_total",
            "counter",
            "Requests that compute, by what they ask for and whether for one text.",
            (operation, ("texts", ("one", "many")), ("result", ("success", "failure"))),
        ),
        Family(
            "opengte_stage_seconds",
            "histogram",
            "Time of each stage of the requests that compute and succeed.",
            (operation, ("stage", STAGES)),
            SECONDS,
        ),
        Family(
            "opengte_request_tokens",
            "histogram",
            "Tokens of each request that computes and succeeds.",
            (),
            COUNTS,
        ),
        Family(
            "opengte_texts_total", "counter", "Texts and pairs of requests that succeed.", (model,)
        ),
        Family(
            "opengte_errors_total",
            "counter",
            "Requests that failed, by kind of error.",
            (("kind", KINDS),),
        ),
    ]


def _batches(model: Label) -> list[Family]:
    return [
        Family("opengte_batch_seconds", "histogram", "Time of each batch.", (model,), SECONDS),
        Family("opengte_batch_tokens", "histogram", "Tokens of each batch.", (model,), TOKENS),
        Family("opengte_batch_texts", "histogram", "Texts of each batch.", (model,), TEXTS),
        Family(
            "opengte_batch_fill",
            "histogram",
            "Share of the token budget that each batch used.",
            (model,),
            SHARES,
        ),
        Family("opengte_queue_tokens", "gauge", "Tokens that wait.", (model,)),
        Family("opengte_queue_limit_tokens", "gauge", "Tokens that may wait.", (model,)),
        Family("opengte_batch_limit_tokens", "gauge", "Token budget of a batch.", (model,)),
        Family("opengte_model_ready", "gauge", "Workers that can use the model.", (model,)),
    ]


def _storage() -> list[Family]:
    return [
        Family("opengte_cache_bytes", "gauge", "Memory of the answers that are kept."),
        Family("opengte_cache_entries", "gauge", "Answers that are kept."),
        Family("opengte_connections", "gauge", "Open connections."),
        Family(
            "opengte_refused_connections_total",
            "counter",
            "Connections closed on slow, oversized or too many clients.",
            (("reason", REFUSALS),),
        ),
        Family(
            "opengte_storage_failures_total",
            "counter",
            "Reads and writes that a disk refused.",
            (("store", STORES),),
        ),
        Family(
            "opengte_storage_ok",
            "gauge",
            "1 when all workers can read and write what they keep.",
            (("store", STORES),),
            merge="min",
        ),
    ]


def _process() -> list[Family]:
    return [
        Family("opengte_worker_starts_total", "counter", "Starts of this worker.", merge="each"),
        Family(
            "opengte_memory_bytes",
            "gauge",
            "Resident memory, shared weights included.",
            merge="each",
        ),
        Family("opengte_cpu_seconds_total", "counter", "Processor time.", merge="each"),
        Family("opengte_open_files", "gauge", "Open file descriptors.", merge="each"),
        Family(
            "opengte_start_time_seconds", "gauge", "Start of the worker, since 1970.", merge="each"
        ),
        Family(
            "opengte_ready_seconds",
            "gauge",
            "Time from the start to all models ready.",
            merge="each",
        ),
    ]
