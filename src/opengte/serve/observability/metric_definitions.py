"""The server's metrics: names, labels, and bounds of histograms."""

from collections.abc import Sequence
from typing import Literal, get_args

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


def _counter(
    name: str, help: str, *labels: Label, merge: Literal["sum", "each"] = "sum"
) -> MetricFamily:
    return MetricFamily(name, "counter", help, labels, merge=merge)


def _gauge(
    name: str, help: str, *labels: Label, merge: Literal["sum", "min", "each"] = "sum"
) -> MetricFamily:
    return MetricFamily(name, "gauge", help, labels, merge=merge)


def _histogram(name: str, help: str, bounds: tuple[float, ...], *labels: Label) -> MetricFamily:
    return MetricFamily(name, "histogram", help, labels, bounds)


def metric_families(models: Sequence[str], routes: Sequence[str]) -> list[MetricFamily]:
    """Return the metrics of a server with these models and routes."""
    model: Label = ("model", (*models, OTHER))
    route: Label = ("route", (*dict.fromkeys(routes), OTHER))
    return [
        *_requests(model, route),
        *(_counter(f"opengte_{name}_total", f"{text}.", model) for name, text in EVENTS.values()),
        *_batches(model),
        *_storage(),
        *_process(),
    ]


def _requests(model: Label, route: Label) -> list[MetricFamily]:
    operation = ("operation", TASKS)
    return [
        _counter("opengte_requests_total", "Requests answered.", route, ("code", _STATUS_CODES)),
        _histogram(
            "opengte_request_seconds",
            "Time from the headers to the end of the answer.",
            TIME_BUCKETS,
            route,
        ),
        _gauge("opengte_requests_in_flight", "Requests being answered."),
        _histogram(
            "opengte_operation_seconds",
            "Time of successful requests that compute, by task.",
            TIME_BUCKETS,
            operation,
        ),
        _counter(
            "opengte_operations_total",
            "Requests that compute, by task, for one text or many.",
            operation,
            ("texts", ("one", "many")),
            ("result", ("success", "failure")),
        ),
        _histogram(
            "opengte_stage_seconds",
            "Time of each stage of successful requests that compute.",
            TIME_BUCKETS,
            operation,
            ("stage", STAGES),
        ),
        _histogram(
            "opengte_request_tokens",
            "Tokens of each successful request that computes.",
            REQUEST_TOKEN_BUCKETS,
        ),
        _counter("opengte_texts_total", "Texts and pairs of successful requests.", model),
        _counter(
            "opengte_errors_total",
            "Requests that failed, by kind of error.",
            ("kind", _ERROR_LABELS),
        ),
    ]


def _batches(model: Label) -> list[MetricFamily]:
    return [
        _histogram("opengte_batch_seconds", "Time of each batch.", TIME_BUCKETS, model),
        _histogram("opengte_batch_tokens", "Tokens of each batch.", BATCH_TOKEN_BUCKETS, model),
        _histogram("opengte_batch_texts", "Texts of each batch.", BATCH_TEXT_BUCKETS, model),
        _histogram(
            "opengte_batch_fill",
            "Share of the token budget that each batch used.",
            SHARE_BUCKETS,
            model,
        ),
        _gauge("opengte_queue_tokens", "Queued tokens.", model),
        _gauge("opengte_queue_limit_tokens", "Maximum queued tokens.", model),
        _gauge("opengte_batch_limit_tokens", "Token budget of a batch.", model),
        _gauge("opengte_model_ready", "Workers with the model ready.", model),
    ]


def _storage() -> list[MetricFamily]:
    return [
        _gauge("opengte_cache_bytes", "Memory of the cached results."),
        _gauge("opengte_cache_entries", "Cached results."),
        _gauge("opengte_connections", "Open connections."),
        _counter(
            "opengte_refused_connections_total",
            "Connections refused or closed because of slow, oversized or too many clients.",
            ("reason", _REFUSAL_REASONS),
        ),
        _counter(
            "opengte_storage_failures_total",
            "Reads and writes of files that failed.",
            ("store", _STORES),
        ),
        _gauge(
            "opengte_storage_ok",
            "1 if all workers can read and write their files.",
            ("store", _STORES),
            merge="min",
        ),
    ]


def _process() -> list[MetricFamily]:
    return [
        _counter("opengte_worker_starts_total", "Starts of this worker.", merge="each"),
        _gauge("opengte_memory_bytes", "Resident memory, shared weights included.", merge="each"),
        _counter("opengte_cpu_seconds_total", "Processor time.", merge="each"),
        _gauge("opengte_open_files", "Open file descriptors.", merge="each"),
        _gauge("opengte_start_time_seconds", "Start of the worker, since 1970.", merge="each"),
        _gauge("opengte_ready_seconds", "Time from the start to all models ready.", merge="each"),
    ]
