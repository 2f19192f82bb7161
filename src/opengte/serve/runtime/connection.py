"""Connections under a time limit: uvicorn's HTTP protocol, with patience that ends.

uvicorn lets a client take for ever over its headers, its body and its reading of the answer, and
lets headers grow without bound. Each connection has at most one timer here. And it begins with
whatever comes, also when the event loop cannot keep up: here a request is then refused before it
is one, at a fifth of the cost of an answer in its own protocol.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from opengte.serve.runtime.loop_lag import Pulse

_RATE = 16 * 2**10  # bytes of body that buy one more second
_LINGER = 5.0  # seconds for a client to finish a body that was refused already


@dataclass(frozen=True)
class Patience:
    """How long a client may take for each thing, in seconds, and how large things may be."""

    headers: float
    body: float
    write: float
    header_bytes: int
    connections: int


@dataclass(frozen=True)
class Watch:
    """What is told of connections: why one was closed, and how many are open."""

    refused: Callable[[str], None] = lambda reason: None
    connections: Callable[[int], None] = lambda count: None


def guarded(patience: Patience, watch: Watch, pulse: Pulse) -> type[HttpToolsProtocol]:
    """Return a protocol class for uvicorn (`Config.http`) with these limits."""
    limits = {"patience": patience, "watch": watch, "pulse": pulse}
    return type("Guarded", (_Guarded,), limits)


class _Shed:
    """Stands for the cycle of a request that was refused before it became one."""

    response_complete = True  # so that uvicorn drops the rest of the body
    message_event = asyncio.Event()


_SHED: Any = _Shed()


class _Guarded(HttpToolsProtocol):
    patience: Patience
    watch: Watch
    pulse: Pulse
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _in_headers = True
    _header_bytes = 0
    _body_bytes = 0
    _closed = False
    _lingers = False

    # connections

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.watch.connections(len(self.connections))
        if len(self.connections) > self.patience.connections:
            self._refuse(503, "connections", "the server has as many connections as it may")
        else:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._stop()
        self._stop_write()
        super().connection_lost(exc)
        self.watch.connections(len(self.connections))

    # requests

    def data_received(self, data: bytes) -> None:
        if self._closed or self.transport.is_closing():
            return
        if self._in_headers:
            room = self.patience.header_bytes - self._header_bytes
            self._header_bytes += len(data)
            if len(data) > room:
                super().data_received(data[:room])
                if self._header_bytes:  # they did not end in there
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
        self._stop()
        if self.pulse.is_behind() and self._may_be_shed():
            self._shed()
        else:
            super().on_headers_complete()

    def _may_be_shed(self) -> bool:
        """Return whether a request computes something, and its connection can go on without it."""
        waits = self.cycle is None or self.cycle.response_complete
        computes = self.parser.get_method() == b"POST" and not self.url.startswith(b"/admin")
        return waits and computes and self.parser.should_keep_alive() and not self._expects()

    def _expects(self) -> bool:
        return self.expect_100_continue or self.parser.should_upgrade()

    def _shed(self) -> None:
        """Say when to come back; what is still to come of the request is read and dropped."""
        self.watch.refused("behind")
        self.cycle = _SHED
        self.transport.write(_BEHIND)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop()
        self._in_headers = True
        super().on_message_complete()
        if self._lingers:
            self.transport.close()
        elif self.cycle is _SHED:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        unread = not self._in_headers and not self.transport.is_closing()
        super().on_response_complete()
        if unread:
            # refused before all of it was here: read on for a while, since closing at once would
            # reset the connection before the client has seen why
            self._stop()
            self._lingers = True
            self._timer = self.loop.call_later(_LINGER, self.transport.close)

    # time

    def _await_headers(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self.patience.headers, self._headers_late)

    def _await_rest(self) -> None:
        """Give a request that has begun, and is not all here, its time."""
        if not self._in_headers:
            self._timer = self.loop.call_later(self.patience.body, self._body_late)
        elif self._header_bytes:
            self._await_headers()

    def _headers_late(self) -> None:
        self._timer = None
        self._refuse(408, "headers_slow", "the headers took too long")

    def _body_late(self) -> None:
        """End a slow body; one that came at a fair rate gets the time that its bytes bought."""
        self._timer = None
        bought, self._body_bytes = self._body_bytes / _RATE, 0
        if self.flow.read_paused or bought >= 1:
            self._timer = self.loop.call_later(max(1.0, bought), self._body_late)
        else:
            self._refuse(408, "body_slow", "the body took too long")

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.patience.write, self._reader_late)

    def resume_writing(self) -> None:
        self._stop_write()
        super().resume_writing()

    def _reader_late(self) -> None:
        self._write_timer = None
        self.watch.refused("reader_slow")
        self.transport.abort()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse(self, status: int, reason: str, message: str) -> None:
        """Say why, where nothing was answered yet, and close."""
        self.watch.refused(reason)
        self._stop()
        answered = self.cycle is not None and not self.cycle.response_complete
        if answered and self.cycle.response_started:
            self.transport.abort()
            return
        self.transport.write(_answer(status, reason, message))
        self.transport.close()


def _answer(status: int, reason: str, message: str, *, close: bool = True) -> bytes:
    phrases = {
        408: "Request Timeout",
        431: "Request Header Fields Too Large",
        503: "Service Unavailable",
    }
    error = {"message": message, "type": reason, "param": None, "code": None}
    body = json.dumps({"error": error}).encode()
    again = "retry-after: 1\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {phrases[status]}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"{again}connection: {'close' if close else 'keep-alive'}\r\n\r\n"
    )
    return head.encode() + body


_BEHIND = _answer(
    503, "overloaded", "the server cannot keep up; come back in a second", close=False
)
