"""Listening sockets, and the HTTP server that accepts connections from them.

uvicorn provides the HTTP protocol. Its own `Server` is not used: it accepts all waiting connections
at once, so that one of several processes at a socket gets them all (here each accepts one at a
time), re-raises the signal that ended it, and limits neither TLS handshakes nor connections.
"""

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import sys
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from opengte.errors import InputError
from opengte.serve.config.settings import ServerSettings
from opengte.serve.observability import logs
from opengte.serve.runtime.connection import ConnectionLimits, ConnectionObserver, limited_protocol
from opengte.serve.runtime.loop_lag import LoopLagMonitor

_BACKLOG = 2048  # connections that the kernel holds until they are accepted
_OTHER_FILES = 256  # that a server has open besides its connections
_ACCEPT_RETRY = 0.5  # seconds before accepting again after running out of file descriptors


class HttpServer:
    """Serves an application on listening sockets, in the running event loop."""

    def __init__(
        self, app: ASGIApp, settings: ServerSettings, observer: ConnectionObserver
    ) -> None:
        limits = ConnectionLimits(
            settings.header_timeout,
            settings.body_timeout,
            settings.write_timeout,
            settings.max_header_bytes,
            settings.max_body_bytes,
            settings.max_connections,
        )
        self._lag = LoopLagMonitor()
        self._config = uvicorn.Config(
            app,
            http=limited_protocol(limits, observer, self._lag),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            timeout_keep_alive=settings.keep_alive_timeout,  # type: ignore[arg-type]
        )
        self._config.load()
        self._protocol: Any = self._config.http_protocol_class
        self._state = ServerState()
        self._settings = settings
        self._accept_batch = 1 if settings.workers > 1 else 64
        self._sockets: list[socket.socket] = []
        self._paused = False
        self._opening: set[asyncio.Task[None]] = set()
        self._date_task: asyncio.Task[None] | None = None
        self._tls: ssl.SSLContext | None = None

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._state.connections)

    def start(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None) -> None:
        """Begin to accept connections, unless paused."""
        self._sockets, self._tls = list(sockets), tls
        self._set_date()
        self._date_task = asyncio.get_running_loop().create_task(self._keep_date())
        for listener in sockets:
            listener.setblocking(False)
            self._watch_listener(listener)

    def refuse_when_behind(self) -> None:
        """Begin to refuse requests when the event loop lags behind, as loading models makes it."""
        self._lag.start()

    def pause(self, paused: bool) -> None:
        """Pause or resume accepting; waiting connections are left to other processes meanwhile."""
        self._paused = paused
        for listener in self._sockets:
            self._watch_listener(listener)

    def _watch_listener(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if self._paused:
            loop.remove_reader(listener.fileno())
        else:
            loop.add_reader(listener.fileno(), self._accept, listener)

    def stop_accepting(self) -> None:
        """Close the sockets; connections stay open. Other processes may still accept."""
        loop = asyncio.get_running_loop()
        for listener in self._sockets:
            loop.remove_reader(listener.fileno())
            listener.close()
        self._sockets = []

    async def finish(self, seconds: float) -> bool:
        """Close idle connections now and the others after their answer.

        Return whether every request was answered within so many seconds; the rest is cut off.
        """
        for task in self._opening:
            task.cancel()
        for connection in list(self._state.connections):
            connection.shutdown()
        done = True
        try:
            async with asyncio.timeout(seconds):
                while self._state.connections or self._state.tasks:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            done = not self._state.tasks
            for request in self._state.tasks:
                request.cancel()
            await asyncio.sleep(0)
        if self._date_task is not None:
            self._date_task.cancel()
        self._lag.stop()
        return done

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(self._accept_batch):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of file descriptors or memory: try again later
                logs.failure("cannot accept connections", error)
                self._retry_later(listener)
                return
            connection.setblocking(False)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.get_running_loop().create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _retry_later(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())

        def resume() -> None:
            if listener in self._sockets:
                self._watch_listener(listener)

        loop.call_later(_ACCEPT_RETRY, resume)

    async def _open(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        bounds = {"ssl_handshake_timeout": self._settings.header_timeout} if self._tls else {}
        try:
            await loop.connect_accepted_socket(
                self._new_protocol, connection, ssl=self._tls, **bounds
            )
        except (OSError, asyncio.CancelledError):  # the client left, or does not speak TLS
            with contextlib.suppress(OSError):
                connection.close()

    def _new_protocol(self) -> Any:
        return self._protocol(config=self._config, server_state=self._state, app_state={})

    async def _keep_date(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._set_date()

    def _set_date(self) -> None:
        self._state.default_headers[:] = [(b"date", formatdate(usegmt=True).encode())]


def raise_open_file_limit(connections: int) -> None:
    """Raise this process's limit of open files to what so many connections need, if allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    maximum = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    limit = min(connections + _OTHER_FILES, maximum)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < connections:
        logs.event(logs.WARNING, "fewer files than connections", files=limit, wanted=connections)


def open_listeners(settings: ServerSettings) -> tuple[list[socket.socket], str]:
    """Return the listening sockets that the settings ask for, and their address for people.

    Raises InputError for an address that cannot be listened on.
    """
    if settings.uds is not None:
        return [_listen_unix(settings.uds)], f"unix:{settings.uds}"
    scheme = "https" if settings.tls_cert else "http"
    try:
        addresses = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise InputError(f"host: `{settings.host}` is no address: {error.strerror}") from None
    sockets: list[socket.socket] = []
    port = settings.port
    for family, kind, protocol, _, address in dict.fromkeys(addresses):
        listener = socket.socket(family, kind, protocol)
        sockets.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind((address[0], port, *address[2:]))
        except OSError as error:
            for opened in sockets:
                opened.close()
            raise InputError(
                f"port: cannot listen on {settings.host}:{port}: {error.strerror}; "
                "choose another with --port"
            ) from None
        port = listener.getsockname()[1]  # port 0: all on the one that was free
        listener.listen(_BACKLOG)
        listener.set_inheritable(True)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host or "0.0.0.0"
    return sockets, f"{scheme}://{host}:{port}"


def _listen_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(FileNotFoundError):
        if _is_stale(path):
            os.unlink(path)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise InputError(f"uds: cannot listen on `{path}`: {error.strerror}") from None
    listener.listen(_BACKLOG)
    listener.set_inheritable(True)
    return listener


def _is_stale(path: str) -> bool:
    """Return whether a socket file was left by a server that no longer runs."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
