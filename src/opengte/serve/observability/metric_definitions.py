"""The server's metrics: names, labels, and bounds of histograms."""

from collections.abc import Sequence
from typing import get_args

from opengte.serve.observability.metric_store import OTHER, MetricFamily
from opengte.serve.protocols.base import ErrorKind

Label = tuple[str, tuple[str, ...]]

TIME_BUCKETS = tuple(
    base * scale for scale in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0) for base in (1.0, 2.5, 5.0)
) + (100.0,)
REQUEST_TOKEN_BUCKETS = tuple(float(4**power) for power in range(12))
BATCH_TOKEN_BUCKETS = tuple(float(2**power) for power in range(3, 21))
BATCH_TEXT_BUCKETS = tuple(float(2**power) for power in range(15))
SHARE_BUCKETS = tuple(step / 10 for step in range(1, 11))

STAGES = ("decode", "tokenize", "queue", "compute", "encode")
TASKS = ("embed", "score", "tokenize", "decode")
_STATUS_CODES = tuple(
    str(code)
    for code in (200, 400, 401, 403, 404, 405, 408, 413, 422, 424, 429, 431, 499, 500, 503, 504)
) + (OTHER,)
_REFUSAL_REASONS = (
    *("headers_slow", "body_slow", "reader_slow", "headers_large", "connections"),
    "behind",  # the event loop was overloaded
)
_STORES = ("usage", "keys", "cache")

# event of the service (Observer.count) -> its counter and help text
EVENTS = {
    "tokens": ("tokens", "Tokens computed"),
    "truncated": ("truncations", "Inputs that lost tokens"),
    "missing_instruction": (
        "missing_instructions",
        "Queries without the instruction that the model expects",
    ),
    "cache_hit": ("cache_hits", "Inputs answered from the cache"),
    "cache_miss": ("cache_misses", "Inputs that were not in the cache"),
    "duplicate": ("duplicates", "Inputs that shared the computation of an equal one"),
    "expired": ("expired", "Requests whose deadline passed in the queue"),
    "cancelled": ("cancelled", "Requests whose client disconnected"),
    "refused_overload": ("refused_overload", "Requests refused because the queue was full"),
    "refused_poison": ("refused_poison", "Inputs refused because they made a batch fail before"),
    "engine_fault": ("engine_faults", "Batches in which the engine failed"),
    "failed_input": ("failed_inputs", "Inputs that failed in requests that succeeded"),
}


_ERROR_LABELS = (*get_args(ErrorKind), "cancelled", OTHER)


def metric_families(models: Sequence[str], routes: Sequence[str]) -> list[MetricFamily]:
    """Return the metrics of a server with these models and routes."""
    model: Label = ("model", (*models, OTHER))
    route: Label = ("route", (*dict.fromkeys(routes), OTHER))
    return [
        *_requests(model, route),
        *(
            MetricFamily(f"opengte_{name}_total", "counter", f"{text}.", (model,))
            for name, text in EVENTS.values()
        ),
        *_batches(model),
        *_storage(),
        *_process(),
    ]


def _requests(model: Label, route: Label) -> list[MetricFamily]:
    operation = ("operation", TASKS)
    return [
        MetricFamily(
            "opengte_requests_total",
            "counter",
            "Requests answered.",
            (route, ("code", _STATUS_CODES)),
        ),
        MetricFamily(
            "opengte_request_seconds",
            "histogram",
            "Time from the headers to the end of the answer.",
            (route,),
            TIME_BUCKETS,
        ),
        MetricFamily("opengte_requests_in_flight", "gauge", "Requests being answered."),
        MetricFamily(
            "opengte_operation_seconds",
            "histogram",
            "Time of successful requests that compute, by task.",
            (operation,),
            TIME_BUCKETS,
        ),
        MetricFamily(
            "opengte_operations_total",
            "counter",
            "Requests that compute, by task, for one text or many.",
            (operation, ("texts", ("one", "many")), ("result", ("success", "failure"))),
        ),
        MetricFamily(
            "opengte_stage_seconds",
            "histogram",
            "Time of each stage of successful requests that compute.",
            (operation, ("stage", STAGES)),
            TIME_BUCKETS,
        ),
        MetricFamily(
            "opengte_request_tokens",
            "histogram",
            "Tokens of each successful request that computes.",
            (),
            REQUEST_TOKEN_BUCKETS,
        ),
        MetricFamily(
            "opengte_texts_total", "counter", "Texts and pairs of successful requests.", (model,)
        ),
        MetricFamily(
            "opengte_errors_total",
            "counter",
            "Requests that failed, by kind of error.",
            (("kind", _ERROR_LABELS),),
        ),
    ]


def _batches(model: Label) -> list[MetricFamily]:
    return [
        MetricFamily(
            "opengte_batch_seconds", "histogram", "Time of each batch.", (model,), TIME_BUCKETS
        ),
        MetricFamily(
            "opengte_batch_tokens",
            "histogram",
            "Tokens of each batch.",
            (model,),
            BATCH_TOKEN_BUCKETS,
        ),
        MetricFamily(
            "opengte_batch_texts", "histogram", "Texts of each batch.", (model,), BATCH_TEXT_BUCKETS
        ),
        MetricFamily(
            "opengte_batch_fill",
            "histogram",
            "Share of the token budget that each batch used.",
            (model,),
            SHARE_BUCKETS,
        ),
        MetricFamily("opengte_queue_tokens", "gauge", "Queued tokens.", (model,)),
        MetricFamily("opengte_queue_limit_tokens", "gauge", "Maximum queued tokens.", (model,)),
        MetricFamily("opengte_batch_limit_tokens", "gauge", "Token budget of a batch.", (model,)),
        MetricFamily("opengte_model_ready", "gauge", "Workers with the model ready.", (model,)),
    ]


def _storage() -> list[MetricFamily]:
    return [
        MetricFamily("opengte_cache_bytes", "gauge", "Memory of the cached results."),
        MetricFamily("opengte_cache_entries", "gauge", "Cached results."),
        MetricFamily("opengte_connections", "gauge", "Open connections."),
        MetricFamily(
            "opengte_refused_connections_total",
            "counter",
            "Connections refused or closed because of slow, oversized or too many clients.",
            (("reason", _REFUSAL_REASONS),),
        ),
        MetricFamily(
            "opengte_storage_failures_total",
            "counter",
            "Reads and writes of files that failed.",
            (("store", _STORES),),
        ),
        MetricFamily(
            "opengte_storage_ok",
            "gauge",
            "1 if all workers can read and write their files.",
            (("store", _STORES),),
            merge="min",
        ),
    ]


def _process() -> list[MetricFamily]:
    return [
        MetricFamily(
            "opengte_worker_starts_total", "counter", "Starts of this worker.", merge="each"
        ),
        MetricFamily(
            "opengte_memory_bytes",
            "gauge",
            "Resident memory, shared weights included.",
            merge="each",
        ),
        MetricFamily("opengte_cpu_seconds_total", "counter", "Processor time.", merge="each"),
        MetricFamily("opengte_open_files", "gauge", "Open file descriptors.", merge="each"),
        MetricFamily(
            "opengte_start_time_seconds", "gauge", "Start of the worker, since 1970.", merge="each"
        ),
        MetricFamily(
            "opengte_ready_seconds",
            "gauge",
            "Time from the start to all models ready.",
            merge="each",
        ),
    ]
