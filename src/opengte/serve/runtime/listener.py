"""Sockets to application: accepting, answering and ending connections, with uvicorn's protocol.

uvicorn's own `Server` takes all waiting connections at once, so that of several processes at one
socket one gets them all; here each process takes one at a time. It also dies of the signal that it
was asked to end by, and bounds neither TLS handshakes nor the number of connections.
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
from uvicorn.server import ServerState

from opengte.errors import InputError
from opengte.serve.config.settings import Settings
from opengte.serve.http.middleware.observe import App
from opengte.serve.observability import logs
from opengte.serve.runtime.connection import Patience, Watch, guarded
from opengte.serve.runtime.loop_lag import Pulse

_BACKLOG = 2048  # connections that the kernel holds until they are accepted
_OTHER_FILES = 256  # that a server has open besides its connections
_RETRY = 0.5  # seconds before accepting again, where there were no more file descriptors


class HttpServer:
    """Serves an application on listening sockets, in the running event loop."""

    def __init__(self, app: App, settings: Settings, watch: Watch) -> None:
        patience = Patience(
            settings.header_timeout,
            settings.body_timeout,
            settings.write_timeout,
            settings.max_header_bytes,
            settings.max_connections,
        )
        self._pulse = Pulse()
        self._config = uvicorn.Config(
            app,
            http=guarded(patience, watch, self._pulse),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            root_path=settings.root_path,
            timeout_keep_alive=settings.keep_alive_timeout,  # type: ignore[arg-type]
        )
        self._config.load()
        self._protocol: Any = self._config.http_protocol_class
        self._state = ServerState()
        self._settings = settings
        self._at_once = 1 if settings.workers > 1 else 64
        self._sockets: list[socket.socket] = []
        self._held = False
        self._opening: set[asyncio.Task[None]] = set()
        self._clock: asyncio.Task[None] | None = None
        self._tls: ssl.SSLContext | None = None

    @property
    def connections(self) -> int:
        """Return how many connections are open."""
        return len(self._state.connections)

    def start(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None) -> None:
        """Begin to accept, unless held."""
        self._sockets, self._tls = list(sockets), tls
        self._set_date()
        self._pulse.start()
        self._clock = asyncio.get_running_loop().create_task(self._keep_date())
        for one in sockets:
            one.setblocking(False)
            self._listen(one)

    def hold(self, held: bool) -> None:
        """Stop accepting for a while, or go on; what waits is left to processes that accept."""
        self._held = held
        for one in self._sockets:
            self._listen(one)

    def _listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if self._held:
            loop.remove_reader(listener.fileno())
        else:
            loop.add_reader(listener.fileno(), self._accept, listener)

    def stop_accepting(self) -> None:
        """Close the sockets; connections stay. Other processes may still accept."""
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            loop.remove_reader(one.fileno())
            one.close()
        self._sockets = []

    async def finish(self, seconds: float) -> bool:
        """End idle connections, and the others after their answer; return whether all had it."""
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
            for cut in self._state.tasks:
                cut.cancel()
            await asyncio.sleep(0)
        if self._clock is not None:
            self._clock.cancel()
        self._pulse.stop()
        return done

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(self._at_once):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no file descriptors, no memory: try again, later
                logs.failure("cannot accept connections", error)
                self._pause(listener)
                return
            connection.setblocking(False)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.get_running_loop().create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _pause(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())

        def resume() -> None:
            if listener in self._sockets:
                self._listen(listener)

        loop.call_later(_RETRY, resume)

    async def _open(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        bounds = {"ssl_handshake_timeout": self._settings.header_timeout} if self._tls else {}
        try:
            await loop.connect_accepted_socket(
                self._new_protocol, connection, ssl=self._tls, **bounds
            )
        except (OSError, asyncio.CancelledError):  # it went away, or cannot speak TLS
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


def allow(connections: int) -> None:
    """Raise this process's limit of open files to what so many connections need, if it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    wanted = min(connections + _OTHER_FILES, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < connections:
        logs.event(logs.WARNING, "fewer files than connections", files=wanted, wanted=connections)


def listen(settings: Settings) -> tuple[list[socket.socket], str]:
    """Return the listening sockets that the settings ask for, and their address for people."""
    if settings.uds is not None:
        return [_listen_unix(settings.uds)], f"unix:{settings.uds}"
    scheme = "https" if settings.tls_cert else "http"
    try:
        found = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise InputError(f"host: `{settings.host}` is no address: {error.strerror}") from None
    sockets: list[socket.socket] = []
    port = settings.port
    for family, kind, protocol, _, address in dict.fromkeys(found):
        one = socket.socket(family, kind, protocol)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            one.bind((address[0], port, *address[2:]))
        except OSError as error:
            one.close()
            for other in sockets:
                other.close()
            raise InputError(
                f"port: cannot listen on {settings.host}:{port}: {error.strerror}; "
                "choose another with --port"
            ) from None
        port = one.getsockname()[1]  # all on the one that was free
        one.listen(_BACKLOG)
        one.set_inheritable(True)
        sockets.append(one)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host or "0.0.0.0"
    return sockets, f"{scheme}://{host}:{port}"


def _listen_unix(path: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(FileNotFoundError):
        if _nobody_listens(path):
            os.unlink(path)
    try:
        one.bind(path)
    except OSError as error:
        one.close()
        raise InputError(f"uds: cannot listen on `{path}`: {error.strerror}") from None
    one.listen(_BACKLOG)
    one.set_inheritable(True)
    return one


def _nobody_listens(path: str) -> bool:
    """Return whether a socket file is left over from a server that is gone."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
