"""HTTP/1.1 with as little work as possible: the generator takes from the servers' processors."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

HEAD_END = b"\r\n\r\n"
CHUNKED_END = b"0\r\n\r\n"


class Answer:
    """What came back: status, head and body; seconds is when its last byte was there."""

    __slots__ = ("body", "head", "seconds", "status")

    def __init__(self, head: bytes, body: bytes) -> None:
        self.status = int(head[9:12])
        self.head = head.lower()
        self.body = body
        self.seconds = time.perf_counter()

    def header(self, name: str) -> str | None:
        """Return the value of a header."""
        for line in self.head.split(b"\r\n"):
            if line.startswith(name.encode() + b":"):
                return line.split(b":", 1)[1].strip().decode()
        return None


Done = Callable[[Answer | None], None]  # None: the connection broke


class Connection(asyncio.Protocol):
    """A connection that is kept alive and has one request at a time on it."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._done: Done | None = None
        self._head = b""
        self._length = -1  # of the body; -1: the head is not there yet; -2: chunked
        self._transport: asyncio.Transport | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.open = True

    def send(self, request: bytes, done: Done) -> None:
        """Send a request; done is called with its answer."""
        assert self._transport is not None and self._done is None
        if not self.open and not self._received:
            done(None)
            return
        self._done = done
        self._length = -1
        self._transport.write(request)
        if self._received:  # refused before it was asked: there are too many connections
            self._read()

    def close(self) -> None:
        """Close the connection; nothing is called any more."""
        self._done = None
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Gather an answer."""
        self._received += data
        if self._done is not None:
            self._read()

    def _read(self) -> None:
        if self._length == -1:
            end = self._received.find(HEAD_END)
            if end < 0:
                return
            self._head = bytes(self._received[: end + 2])
            del self._received[: end + 4]
            self._length = _length(self._head)
        if self._length >= 0:
            if len(self._received) >= self._length:
                self._finish(self._length)
        elif self._received.endswith(CHUNKED_END):
            self._finish(len(self._received))

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a broken request."""
        self.open = False
        if self._done is not None:
            done, self._done = self._done, None
            done(None)

    def _finish(self, length: int) -> None:
        answer = Answer(self._head, bytes(self._received[:length]))
        del self._received[:length]
        if b"connection: close" in answer.head and self._transport is not None:
            self.open = False
            self._transport.close()
        done, self._done = self._done, None
        if done is not None:
            done(answer)


def _length(head: bytes) -> int:
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return -2
    place = lower.find(b"content-length:")
    return int(lower[place + 15 : lower.index(b"\r\n", place)]) if place >= 0 else 0


class Pool:
    """Idle connections to one server, opened as they are needed."""

    def __init__(self, host: str, port: int, most: int) -> None:
        self._address = (host, port)
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._most = most

    async def take(self) -> Connection | None:
        """Return a connection; None where there are too many, or none can be had."""
        while self._idle:
            found = self._idle.pop()
            if found.open:
                return found
            self._all.discard(found)
        if len(self._all) >= self._most:
            return None
        loop = asyncio.get_running_loop()
        try:
            _, made = await loop.create_connection(Connection, *self._address)
        except OSError:
            return None
        self._all.add(made)
        return made

    def idle(self) -> Connection | None:
        """Return an open idle connection without waiting, None if there is none."""
        while self._idle:
            found = self._idle.pop()
            if found.open:
                return found
            self._all.discard(found)
        return None

    def give(self, connection: Connection) -> None:
        """Take a connection back."""
        if connection.open:
            self._idle.append(connection)
        else:
            self._all.discard(connection)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._all:
            connection.close()
