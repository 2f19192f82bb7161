"""The server's metrics for Prometheus: what is counted, and the page that tells it.

text-embeddings-inference's names (te_...) are aliases, made of the same numbers when asked for.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from opengte.serve.board import OTHER, Board, Family
from opengte.serve.protocols.base import Kind
from opengte.serve.shared import SharedMemory

if TYPE_CHECKING:
    from opengte.serve.record import Record
    from opengte.serve.request import ModelStatus

_SECONDS = tuple(
    base * scale for scale in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0) for base in (1.0, 2.5, 5.0)
) + (100.0,)
_COUNTS = tuple(float(4**power) for power in range(12))
_TOKENS = tuple(float(2**power) for power in range(3, 21))
_TEXTS = tuple(float(2**power) for power in range(15))
_SHARES = tuple(step / 10 for step in range(1, 11))

STAGES = ("decode", "tokenize", "queue", "compute", "encode")
OPERATIONS = ("embed", "score", "tokenize", "decode")
CODES = tuple(
    str(code)
    for code in (200, 400, 401, 403, 404, 405, 408, 413, 422, 424, 429, 431, 499, 500, 503, 504)
) + (OTHER,)
REFUSALS = ("headers_slow", "body_slow", "reader_slow", "headers_large", "connections")
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


def work_of(operation: str | None) -> str | None:
    """Return what an operation of a protocol computes, or None where it only tells something."""
    name = operation or ""
    if name.endswith("_tokenize"):
        return "tokenize"
    if name.endswith(("_decode", "_detokenize")):
        return "decode"
    if "_rerank" in name or name.endswith("_predict"):
        return "score"
    if "_embed" in name or name.endswith(("_similarity", "_vertex", "_contextualized")):
        return "embed"
    return None


def families(models: Sequence[str], routes: Sequence[str]) -> list[Family]:
    """Return all metrics of a server with these models and routes."""
    model = ("model", (*models, OTHER))
    route = ("route", (*dict.fromkeys(routes), OTHER))
    operation = ("operation", OPERATIONS)
    counted = [
        Family(f"opengte_{name}_total", "counter", f"{said}.", (model,))
        for name, said in EVENTS.values()
    ]
    return [
        Family("opengte_requests_total", "counter", "Requests answered.", (route, ("code", CODES))),
        Family(
            "opengte_request_seconds",
            "histogram",
            "Time from the headers to the end of the answer.",
            (route,),
            _SECONDS,
        ),
        Family("opengte_requests_in_flight", "gauge", "Requests being answered."),
        Family(
            "opengte_operation_seconds",
            "histogram",
            "Time of the requests that compute and succeed, by what they ask for.",
            (operation,),
            _SECONDS,
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
            _SECONDS,
        ),
        Family(
            "opengte_request_tokens",
            "histogram",
            "Tokens of each request that computes and succeeds.",
            (),
            _COUNTS,
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
        *counted,
        Family("opengte_batch_seconds", "histogram", "Time of each batch.", (model,), _SECONDS),
        Family("opengte_batch_tokens", "histogram", "Tokens of each batch.", (model,), _TOKENS),
        Family("opengte_batch_texts", "histogram", "Texts of each batch.", (model,), _TEXTS),
        Family(
            "opengte_batch_fill",
            "histogram",
            "Share of the token budget that each batch used.",
            (model,),
            _SHARES,
        ),
        Family("opengte_queue_tokens", "gauge", "Tokens that wait.", (model,)),
        Family("opengte_queue_limit_tokens", "gauge", "Tokens that may wait.", (model,)),
        Family("opengte_batch_limit_tokens", "gauge", "Token budget of a batch.", (model,)),
        Family("opengte_model_ready", "gauge", "Workers that can use the model.", (model,)),
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


class Metrics:
    """Where requests, batches and events are counted; an `Observer` of the service."""

    def __init__(
        self, models: Sequence[str], routes: Sequence[str], shared: SharedMemory, row: int = 0
    ) -> None:
        self.board = Board(families(models, routes), shared, row)
        board = self.board
        self._failures: dict[str, int] = {}  # of each store, that are counted
        self._in_flight = board.place("opengte_requests_in_flight")
        self._request_tokens = board.place("opengte_request_tokens")
        self._batch = {
            model: [
                board.place(f"opengte_batch_{what}", model)
                for what in ("seconds", "tokens", "texts", "fill")
            ]
            for model in (*models, OTHER)
        }
        self._stages = {
            operation: [board.place("opengte_stage_seconds", operation, s) for s in STAGES]
            for operation in OPERATIONS
        }

    def batch(self, model: str, texts: int, tokens: int, budget: int, seconds: float) -> None:
        """One batch was computed."""
        board = self.board
        places = self._batch.get(model) or self._batch[OTHER]
        board.observe(places[0], _SECONDS, seconds)
        board.observe(places[1], _TOKENS, tokens)
        board.observe(places[2], _TEXTS, texts)
        board.observe(places[3], _SHARES, tokens / budget if budget else 1.0)

    def count(self, event: str, model: str, n: int = 1) -> None:
        """Count an event of the service."""
        known = EVENTS.get(event)
        if known is not None:
            self.board.add(self.board.place(f"opengte_{known[0]}_total", model), n)

    def began(self) -> None:
        """One more request is being answered."""
        self.board.add(self._in_flight)

    def ended(self, route: str, status: int, seconds: float, error: str | None) -> None:
        """One request was answered, with an error of some kind or none."""
        board = self.board
        board.add(self._in_flight, -1)
        board.add(board.place("opengte_requests_total", route, str(status)))
        board.observe(board.place("opengte_request_seconds", route), _SECONDS, seconds)
        if error is not None:
            board.add(board.place("opengte_errors_total", error))

    def computed(self, record: "Record", operation: str, status: int, seconds: float) -> None:
        """One request that computes was answered, well or badly; operation is its `work_of`."""
        board = self.board
        good = status < 400
        board.add(
            board.place(
                "opengte_operations_total",
                operation,
                "one" if record.texts == 1 else "many",
                "success" if good else "failure",
            )
        )
        if not good:
            return
        board.observe(board.place("opengte_operation_seconds", operation), _SECONDS, seconds)
        board.observe(self._request_tokens, _COUNTS, record.tokens)
        board.add(board.place("opengte_texts_total", record.model or OTHER), record.texts)
        timing = record.timing
        spent = (
            record.decoding,
            timing.tokenizing,
            timing.queued,
            timing.computing,
            record.encoding,
        )
        for place, stage in zip(self._stages[operation], spent, strict=True):
            board.observe(place, _SECONDS, stage)

    def refused(self, reason: str) -> None:
        """Count a connection that was closed on a client."""
        self.board.add(self.board.place("opengte_refused_connections_total", reason))

    def connections(self, count: int) -> None:
        """Say how many connections are open."""
        self.set("opengte_connections", count)

    def models(self, statuses: Sequence["ModelStatus"]) -> None:
        """Say how each model is."""
        for status in statuses:
            self.set("opengte_queue_tokens", status.queued_tokens, status.name)
            self.set("opengte_queue_limit_tokens", status.max_queue_tokens or 0, status.name)
            self.set("opengte_batch_limit_tokens", status.max_batch_tokens or 0, status.name)
            self.set("opengte_model_ready", float(status.state == "ready"), status.name)

    def store(self, name: str, working: bool, failures: int) -> None:
        """Say how the usage, keys or cache file is, and how often it failed in this process."""
        self.set("opengte_storage_ok", float(working), name)
        new = failures - self._failures.get(name, 0)
        self._failures[name] = failures
        self.board.add(self.board.place("opengte_storage_failures_total", name), new)

    def process(self) -> None:
        """Say what this process uses."""
        memory, files = _resident_bytes(), _open_files()
        self.set("opengte_memory_bytes", memory)
        self.set("opengte_open_files", files)
        self.set("opengte_cpu_seconds_total", time.process_time())

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge by name."""
        self.board.set(self.board.place(name, *labels), value)

    def add(self, name: str, *labels: str) -> None:
        """Count one in a counter by name."""
        self.board.add(self.board.place(name, *labels))

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page for Prometheus and its content type; takes milliseconds."""
        from opengte.serve.exposition import page

        return page(self.board, accept)

    def close(self) -> None:
        """Let go of the shared memory."""
        self.board.close()


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _open_files() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0
