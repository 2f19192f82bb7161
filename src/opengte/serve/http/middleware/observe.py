"""Metrics, trace and log line of every request, around the whole application."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opengte.serve.http.errors import CLIENT_CLOSED_REQUEST
from opengte.serve.observability import logs
from opengte.serve.observability.metric_store import OTHER
from opengte.serve.observability.metrics import Metrics, task_of

if TYPE_CHECKING:
    from opengte.serve.observability.request_record import RequestRecord
    from opengte.serve.observability.tracing import Tracer

_LOGGED_FOR_DEBUGGING = (  # path prefixes whose successful requests are not worth a line
    *("/health", "/healthz", "/ready", "/readyz", "/ping", "/metrics"),
    *("/page/state", "/assets", "/kb/assets"),
)


@dataclass(frozen=True)
class ObserveOptions:
    """Where requests are reported: metrics, and optionally traces and the load history."""

    metrics: Metrics
    tracer: "Tracer | None" = None
    # called with status and seconds of requests that compute
    record_load: Callable[[int, float], None] | None = None
    log_sample: float = 1.0  # share of the successful requests that are logged
    models: frozenset[str] = frozenset()  # names that may be reported; others are clients' text
    draining: Callable[[], bool] = lambda: False


class ObserveMiddleware:
    """ASGI middleware; takes some ten microseconds a request."""

    def __init__(self, app: ASGIApp, options: ObserveOptions) -> None:
        self.app = app
        self.options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, and report it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        self.options.metrics.request_started()
        tracer = self.options.tracer
        span = tracer.start(scope) if tracer is not None else None
        answer = _ObservedSend(send, self.options.draining)
        try:
            await self.app(scope, receive, answer.send)
        except asyncio.CancelledError:
            answer.status = answer.status or CLIENT_CLOSED_REQUEST
            raise
        except Exception:  # the application has logged it
            answer.status = answer.status or 500
            raise
        finally:
            seconds = time.perf_counter() - started
            self._report(scope, answer, seconds, span)

    def _report(self, scope: Scope, answer: "_ObservedSend", seconds: float, span: Any) -> None:
        options = self.options
        record: RequestRecord | None = scope.get("opengte")
        route = getattr(scope.get("route"), "path", OTHER)
        status = answer.status or CLIENT_CLOSED_REQUEST
        if record is not None and record.model not in options.models:
            record.model = None
        error = record.error if record is not None else None
        options.metrics.request_finished(route, status, seconds, error)
        task = task_of(record.operation) if record is not None else None
        if record is not None and task is not None:
            options.metrics.request_computed(record, task, status, seconds)
            if options.record_load is not None:
                options.record_load(status, seconds)
        if span is not None and options.tracer is not None:
            options.tracer.finish(span, route, record, status, seconds)
        if self._is_logged(scope["path"], status):
            logs.request(scope, record, status, seconds, answer.sent)

    def _is_logged(self, path: str, status: int) -> bool:
        if not logs.logger.isEnabledFor(logging.INFO):
            return status >= 500
        if status >= 400:
            return True
        if path.startswith(_LOGGED_FOR_DEBUGGING):
            return logs.logger.isEnabledFor(logging.DEBUG)
        return self.options.log_sample >= 1 or random.random() < self.options.log_sample


class _ObservedSend:
    """Passes an answer on, and notes its status and size."""

    __slots__ = ("_draining", "_send", "sent", "status")

    def __init__(self, send: Send, draining: Callable[[], bool]) -> None:
        self._send = send
        self._draining = draining
        self.status = 0
        self.sent = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            if self._draining():  # so that the client sends its next request elsewhere
                headers = [*message.get("headers", ()), (b"connection", b"close")]
                message = {**message, "headers": headers}
        await self._send(message)
