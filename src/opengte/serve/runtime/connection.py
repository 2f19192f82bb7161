"""uvicorn's HTTP protocol with limits on slow, oversized and too many clients.

uvicorn lets a client take for ever to send its headers and body and to read the answer, and lets
headers grow without bound. Here each connection has a timer, at most one at a time while a request
arrives. uvicorn also accepts every request, however overloaded the event loop is: here a request
that computes is then rejected as soon as its headers are parsed, which costs a fifth of an answer
in its own protocol.

An answer may be complete before the body of its request has come: to an unknown key or path, say.
Then the body is read and dropped, within the size and time of any body, and the connection goes on;
where its end is not in sight, the answer says that the connection closes, and it is closed when the
client has sent its body, or a little later.
"""

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from opengte.serve.runtime.loop_lag import LoopLagMonitor

_BODY_RATE = 16 * 2**10  # bytes a second of body that extend its timeout
_LINGER = 5.0  # seconds for a client to finish sending a body before an announced close


@dataclass(frozen=True)
class ConnectionLimits:
    """Timeouts in seconds, the largest headers and bodies in bytes, and the most connections."""

    header_timeout: float
    body_timeout: float
    write_timeout: float
    max_header_bytes: int
    max_body_bytes: int
    max_connections: int


@dataclass(frozen=True)
class ConnectionObserver:
    """Callbacks: why a connection or request was refused, and how many connections are open."""

    refused: Callable[[str], None] = lambda reason: None
    open_connections: Callable[[int], None] = lambda count: None


def limited_protocol(
    limits: ConnectionLimits, observer: ConnectionObserver, lag: LoopLagMonitor
) -> type["_LimitedHttpProtocol"]:
    """Return a protocol class for uvicorn (`Config.http`) with these limits."""
    attributes = {"limits": limits, "observer": observer, "lag": lag}
    return type("ConfiguredHttpProtocol", (_LimitedHttpProtocol,), attributes)


class _RejectedCycle:
    """Takes the place of uvicorn's request cycle for a request that was rejected."""

    response_complete = True  # so that uvicorn drops the rest of the body
    message_event = asyncio.Event()


_REJECTED_CYCLE: Any = _RejectedCycle()


class _LimitedHttpProtocol(HttpToolsProtocol):
    """One connection; `limited_protocol` sets the class attributes."""

    limits: ConnectionLimits
    observer: ConnectionObserver
    lag: LoopLagMonitor
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _in_headers = True
    _header_bytes = 0
    _body_bytes = 0
    _closed = False
    _lingering = False  # the connection closes after the answer, once the body has come

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._answering: ASGIApp = self.app
        self.app = self._answer

    # connections

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.observer.open_connections(len(self.connections))
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, "connections", "the server has as many connections as it may")
        else:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._cancel_timer()
        self._cancel_write_timer()
        super().connection_lost(exc)
        self.observer.open_connections(len(self.connections))

    # requests

    def data_received(self, data: bytes) -> None:
        if self._closed or self.transport.is_closing():
            return
        if self._in_headers:
            room = self.limits.max_header_bytes - self._header_bytes
            self._header_bytes += len(data)
            if len(data) > room:
                super().data_received(data[:room])
                if self._header_bytes:  # the headers did not end within the limit
                    self._refuse(431, "headers_large", "the headers are too large")
                if self._closed or self.transport.is_closing():
                    return
                data = data[room:]
        super().data_received(data)
        if self._timer is None and not (self._closed or self.transport.is_closing()):
            self._await_rest()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._header_bytes = self._body_bytes = 0
        self._cancel_timer()
        if self.lag.overloaded() and self._may_be_rejected():
            self._reject()
        else:
            super().on_headers_complete()

    def _may_be_rejected(self) -> bool:
        """Return whether a request computes something and its connection can stay open."""
        idle = self.cycle is None or self.cycle.response_complete
        computes = self.parser.get_method() == b"POST" and not self.url.startswith(b"/admin")
        special = self.expect_100_continue or self.parser.should_upgrade()
        return idle and computes and self.parser.should_keep_alive() and not special

    def _reject(self) -> None:
        """Answer 503 with Retry-After; the rest of the request is read and dropped."""
        self.observer.refused("behind")
        self.cycle = _REJECTED_CYCLE
        self._lingering = not self._is_body_bounded(self.headers)
        self.transport.write(_OVERLOADED_AND_CLOSE if self._lingering else _OVERLOADED)
        if self._lingering:
            self._timer = self.loop.call_later(_LINGER, self.transport.close)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._cancel_timer()
        self._in_headers = True
        super().on_message_complete()
        if not self.cycle.response_complete:
            return
        if self._lingering:
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._in_headers:
            if self._lingering:
                self.transport.close()
            return
        self._unset_keepalive_if_required()
        if self._lingering:
            # closing at once would reset the connection before the client has read the answer
            self._cancel_timer()
            self._timer = self.loop.call_later(_LINGER, self.transport.close)

    # answers before the body

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; while the body has not come, the answer may announce a close."""
        cycle = self.cycle
        if cycle.scope is scope and cycle.more_body:
            send = self._announcing(cycle)
        await self._answering(scope, receive, send)

    def _announcing(self, cycle: RequestResponseCycle) -> Send:
        async def send(message: Message) -> None:
            early = message["type"] == "http.response.start" and cycle.more_body
            if early and (
                cycle.waiting_for_100_continue  # then a client may leave its body out
                or not self._is_body_bounded(cycle.scope["headers"])
            ):
                cycle.keep_alive = False  # which uvicorn announces
            await cycle.send(message)  # type: ignore[arg-type]
            if early and not cycle.keep_alive:
                cycle.keep_alive = True  # so that it is closed here, not before the body has come
                self._lingering = True

        return send

    def _is_body_bounded(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether the rest of a body is known to be no larger than a body may be."""
        length = next((value for name, value in headers if name == b"content-length"), b"")
        return length.isdigit() and int(length) <= self.limits.max_body_bytes

    # timeouts

    def _await_headers(self) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(self.limits.header_timeout, self._headers_late)

    def _await_rest(self) -> None:
        """Start the timer of a request that has begun to arrive."""
        if not self._in_headers:
            self._timer = self.loop.call_later(self.limits.body_timeout, self._body_late)
        elif self._header_bytes:
            self._await_headers()

    def _headers_late(self) -> None:
        self._timer = None
        self._refuse(408, "headers_slow", "the headers took too long")

    def _body_late(self) -> None:
        """Refuse a slow body; bytes that arrived since the last check extend its time."""
        self._timer = None
        extension, self._body_bytes = self._body_bytes / _BODY_RATE, 0
        if self.flow.read_paused or extension >= 1:
            self._timer = self.loop.call_later(max(1.0, extension), self._body_late)
        else:
            self._refuse(408, "body_slow", "the body took too long")

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_timeout, self._reader_late)

    def resume_writing(self) -> None:
        self._cancel_write_timer()
        super().resume_writing()

    def _reader_late(self) -> None:
        self._write_timer = None
        self.observer.refused("reader_slow")
        self.transport.abort()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse(self, status: int, reason: str, message: str) -> None:
        """Answer with the reason, unless an answer has begun, and close the connection."""
        self.observer.refused(reason)
        self._cancel_timer()
        if self._is_answered():
            self.transport.close()
            return
        in_flight = self.cycle is not None and not self.cycle.response_complete
        if in_flight and self.cycle.response_started:
            self.transport.abort()
            return
        self.transport.write(_error_response(status, reason, message))
        self.transport.close()

    def _is_answered(self) -> bool:
        """Return whether the request that is arriving has its answer already."""
        return not self._in_headers and self.cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        if self._is_answered():
            self.transport.close()
        else:
            super().send_400_response(msg)


def _error_response(status: int, reason: str, message: str, *, close: bool = True) -> bytes:
    phrases = {
        408: "Request Timeout",
        431: "Request Header Fields Too Large",
        503: "Service Unavailable",
    }
    error = {"message": message, "type": reason, "param": None, "code": None}
    body = json.dumps({"error": error}).encode()
    retry = "retry-after: 1\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {phrases[status]}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"{retry}connection: {'close' if close else 'keep-alive'}\r\n\r\n"
    )
    return head.encode() + body


_CANNOT_KEEP_UP = "the server cannot keep up; come back in a second"
_OVERLOADED = _error_response(503, "overloaded", _CANNOT_KEEP_UP, close=False)
_OVERLOADED_AND_CLOSE = _error_response(503, "overloaded", _CANNOT_KEEP_UP)
