"""What is observed of every request: metrics, trace and log, around the application."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opengte.serve.observability import logs
from opengte.serve.observability.metric_store import OTHER
from opengte.serve.observability.metrics import Metrics, work_of

if TYPE_CHECKING:
    from opengte.serve.observability.request_record import Record
    from opengte.serve.observability.tracing import Tracer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENT_WENT = 499  # as nginx writes it
_QUIET = (
    *("/health", "/healthz", "/ready", "/readyz", "/ping", "/metrics"),
    *("/page/state", "/assets", "/kb/assets"),
)


@dataclass(frozen=True)
class Observation:
    """Where requests are told: metrics always, traces and the page's load ring where there are."""

    metrics: Metrics
    tracer: "Tracer | None" = None
    ring: Callable[[int, float], None] | None = None  # status and seconds of computing requests
    sample: float = 1.0  # of the successful requests, which are logged
    models: frozenset[str] = frozenset()  # names that may be told; others are a client's text
    draining: Callable[[], bool] = lambda: False


class ObserveRequests:
    """ASGI middleware, pure: some ten microseconds a request."""

    def __init__(self, app: App, observation: Observation) -> None:
        self.app = app
        self.to = observation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request through the application, and tell of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        self.to.metrics.began()
        span = self.to.tracer.start(scope) if self.to.tracer is not None else None
        answer = _Answer(send, self.to.draining)
        try:
            await self.app(scope, receive, answer.send)
        except asyncio.CancelledError:
            answer.status = answer.status or CLIENT_WENT
            raise
        except Exception:  # the application has logged it
            answer.status = answer.status or 500
            raise
        finally:
            seconds = time.perf_counter() - started
            self._tell(scope, answer, seconds, span)

    def _tell(self, scope: Scope, answer: "_Answer", seconds: float, span: Any) -> None:
        to = self.to
        record: Record | None = scope.get("opengte")
        route = getattr(scope.get("route"), "path", OTHER)
        status = answer.status or CLIENT_WENT
        if record is not None and record.model not in to.models:
            record.model = None
        to.metrics.ended(route, status, seconds, record.error if record is not None else None)
        work = work_of(record.operation) if record is not None else None
        if record is not None and work is not None:
            to.metrics.computed(record, work, status, seconds)
            if to.ring is not None:
                to.ring(status, seconds)
        if span is not None and to.tracer is not None:
            to.tracer.finish(span, route, record, status, seconds)
        if self._is_logged(scope["path"], status):
            logs.request(scope, record, status, seconds, answer.sent)

    def _is_logged(self, path: str, status: int) -> bool:
        if not logs.logger.isEnabledFor(logging.INFO):
            return status >= 500
        if status >= 400:
            return True
        if path.startswith(_QUIET):
            return logs.logger.isEnabledFor(logging.DEBUG)
        return self.to.sample >= 1 or random.random() < self.to.sample


class _Answer:
    """Passes an answer on, and counts what passes."""

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
            if self._draining():  # so that no client sends its next request here
                headers = [*message.get("headers", ()), (b"connection", b"close")]
                message = {**message, "headers": headers}
        await self._send(message)
