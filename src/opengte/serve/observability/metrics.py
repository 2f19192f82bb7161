"""Counts requests, batches and events for Prometheus; the names are in `metric_definitions`.

text-embeddings-inference's names (te_...) are aliases, made from the same numbers by `prometheus`.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opengte.serve.observability.metric_definitions import (
    BATCH_TEXT_BUCKETS,
    BATCH_TOKEN_BUCKETS,
    EVENTS,
    REQUEST_TOKEN_BUCKETS,
    SHARE_BUCKETS,
    STAGES,
    TASKS,
    TIME_BUCKETS,
    metric_families,
)
from opengte.serve.observability.metric_store import OTHER, SharedMetricStore
from opengte.serve.shared_memory import SharedMemory

if TYPE_CHECKING:
    from opengte.serve.observability.request_record import RequestRecord
    from opengte.serve.types import ModelStatus


def task_of(operation: str | None) -> str | None:
    """Return the task of a protocol's operation, one of `TASKS`; None if it computes nothing."""
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


class Metrics:
    """The metrics of one process; an `Observer` of the service."""

    def __init__(
        self, models: Sequence[str], routes: Sequence[str], shared: SharedMemory, row: int = 0
    ) -> None:
        self.store = SharedMetricStore(metric_families(models, routes), shared, row)
        self.labels: dict[str, str] = {}  # of every sample, besides its own
        store = self.store
        self._failures: dict[str, int] = {}  # already counted, by file
        self._in_flight = store.index("opengte_requests_in_flight")
        self._request_tokens = store.index("opengte_request_tokens")
        self._batch = {
            model: [
                store.index(f"opengte_batch_{what}", model)
                for what in ("seconds", "tokens", "texts", "fill")
            ]
            for model in (*models, OTHER)
        }
        self._stages = {
            task: [store.index("opengte_stage_seconds", task, stage) for stage in STAGES]
            for task in TASKS
        }

    def batch(self, model: str, texts: int, tokens: int, budget: int, seconds: float) -> None:
        """Count a computed batch."""
        store = self.store
        indices = self._batch.get(model) or self._batch[OTHER]
        store.observe(indices[0], TIME_BUCKETS, seconds)
        store.observe(indices[1], BATCH_TOKEN_BUCKETS, tokens)
        store.observe(indices[2], BATCH_TEXT_BUCKETS, texts)
        store.observe(indices[3], SHARE_BUCKETS, tokens / budget if budget else 1.0)

    def count(self, event: str, model: str, n: int = 1) -> None:
        """Count an event of the service."""
        known = EVENTS.get(event)
        if known is not None:
            self.store.add(self.store.index(f"opengte_{known[0]}_total", model), n)

    def request_started(self) -> None:
        """Count a request in flight."""
        self.store.add(self._in_flight)

    def request_finished(self, route: str, status: int, seconds: float, error: str | None) -> None:
        """Count an answered request; error is its `ErrorKind`, if it failed."""
        store = self.store
        store.add(self._in_flight, -1)
        store.add(store.index("opengte_requests_total", route, str(status)))
        store.observe(store.index("opengte_request_seconds", route), TIME_BUCKETS, seconds)
        if error is not None:
            store.add(store.index("opengte_errors_total", error))

    def request_computed(
        self, record: "RequestRecord", task: str, status: int, seconds: float
    ) -> None:
        """Count an answered request that computes; task is what `task_of` returns for it."""
        store = self.store
        good = status < 400
        store.add(
            store.index(
                "opengte_operations_total",
                task,
                "one" if record.texts == 1 else "many",
                "success" if good else "failure",
            )
        )
        if not good:
            return
        store.observe(store.index("opengte_operation_seconds", task), TIME_BUCKETS, seconds)
        store.observe(self._request_tokens, REQUEST_TOKEN_BUCKETS, record.tokens)
        store.add(store.index("opengte_texts_total", record.model or OTHER), record.texts)
        timing = record.timing
        stages = (
            record.decoding,
            timing.tokenizing,
            timing.queued,
            timing.computing,
            record.encoding,
        )
        for index, spent in zip(self._stages[task], stages, strict=True):
            store.observe(index, TIME_BUCKETS, spent)

    def connection_refused(self, reason: str) -> None:
        """Count a connection or request that was refused."""
        self.store.add(self.store.index("opengte_refused_connections_total", reason))

    def set_connections(self, count: int) -> None:
        """Set the number of open connections."""
        self.set_gauge("opengte_connections", count)

    def update_models(self, statuses: Sequence["ModelStatus"]) -> None:
        """Set the gauges of each model."""
        for status in statuses:
            self.set_gauge("opengte_queue_tokens", status.queued_tokens, status.name)
            self.set_gauge("opengte_queue_limit_tokens", status.max_queue_tokens or 0, status.name)
            self.set_gauge("opengte_batch_limit_tokens", status.max_batch_tokens or 0, status.name)
            self.set_gauge("opengte_model_ready", float(status.state == "ready"), status.name)

    def update_storage(self, name: str, working: bool, failures: int) -> None:
        """Set whether the usage, keys or cache file works; failures are all of this process."""
        self.set_gauge("opengte_storage_ok", float(working), name)
        new = failures - self._failures.get(name, 0)
        self._failures[name] = failures
        self.store.add(self.store.index("opengte_storage_failures_total", name), new)

    def update_process(self) -> None:
        """Set the gauges of this process."""
        self.set_gauge("opengte_memory_bytes", _resident_bytes())
        self.set_gauge("opengte_open_files", _open_files())
        self.set_gauge("opengte_cpu_seconds_total", time.process_time())

    def set_gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge by name."""
        self.store.set(self.store.index(name, *labels), value)

    def increment(self, name: str, *labels: str) -> None:
        """Add one to a counter by name."""
        self.store.add(self.store.index(name, *labels))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page for Prometheus and its content type; takes milliseconds."""
        from opengte.serve.observability.prometheus import render

        return render(self.store, accept, self.labels)

    def close(self) -> None:
        """Release the shared memory."""
        self.store.close()


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
