"""The server's metrics for Prometheus: what is counted, and the page that tells it.

text-embeddings-inference's names (te_...) are aliases, made of the same numbers when asked for.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opengte.serve.observability.metric_definitions import (
    COUNTS,
    EVENTS,
    OPERATIONS,
    SECONDS,
    SHARES,
    STAGES,
    TEXTS,
    TOKENS,
    families,
)
from opengte.serve.observability.metric_store import OTHER, Board
from opengte.serve.shared_memory import SharedMemory

if TYPE_CHECKING:
    from opengte.serve.observability.request_record import Record
    from opengte.serve.types import ModelStatus


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
        board.observe(places[0], SECONDS, seconds)
        board.observe(places[1], TOKENS, tokens)
        board.observe(places[2], TEXTS, texts)
        board.observe(places[3], SHARES, tokens / budget if budget else 1.0)

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
        board.observe(board.place("opengte_request_seconds", route), SECONDS, seconds)
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
        board.observe(board.place("opengte_operation_seconds", operation), SECONDS, seconds)
        board.observe(self._request_tokens, COUNTS, record.tokens)
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
            board.observe(place, SECONDS, stage)

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
        from opengte.serve.observability.prometheus import page

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
