"""An HTTP server around a small application, and raw sockets to ask it with."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time

from opengte.serve.config.settings import ServerSettings
from opengte.serve.runtime.connection import ConnectionObserver
from opengte.serve.runtime.listener import HttpServer, open_listeners


async def echo(scope, receive, send):
    """Answer with the length of the body; /slow takes a second, /large sends 64 MiB."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    body = str(size).encode()
    parts = [b"x" * 2**20] * 64 if scope["path"] == "/large" else [body]
    length = str(sum(map(len, parts))).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
    )
    for i, part in enumerate(parts):
        more = i < len(parts) - 1
        await send({"type": "http.response.body", "body": part, "more_body": more})


async def early(scope, receive, send):
    """Refuse without reading the body."""
    await send(
        {"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"5")]}
    )
    await send({"type": "http.response.body", "body": b"large"})


class Served:
    """A running server: its port, why it closed connections, and the requests that began."""

    def __init__(self, server, port, loop, refused, begun):
        self.server, self.port, self.loop = server, port, loop
        self.refused, self.begun = refused, begun

    def connect(self, tls=None, timeout=20):
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        return raw if tls is None else tls.wrap_socket(raw, server_hostname="localhost")

    def call(self, function, *arguments):
        async def run():
            result = function(*arguments)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(30)


@contextlib.contextmanager
def served(app=echo, tls=None, uvloop=True, **settings):
    """Serve an application in a thread on a free port."""
    wanted = ServerSettings(port=0, **settings)
    sockets, address = open_listeners(wanted)
    refused: list[str] = []
    begun: list[str] = []
    ready, box = threading.Event(), []

    async def noted(scope, receive, send):
        begun.append(scope["path"])
        await app(scope, receive, send)

    async def main():
        server = HttpServer(noted, wanted, ConnectionObserver(refused.append))
        server.start(sockets, tls)
        end = asyncio.Event()
        box.append((server, asyncio.get_running_loop(), end))
        ready.set()
        await end.wait()
        server.stop_accepting()
        await server.finish(5)

    def run():
        factory = None
        if uvloop:
            from uvloop import new_event_loop as factory
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(20)
    server, loop, end = box[0]
    try:
        yield Served(server, int(address.rpartition(":")[2]), loop, refused, begun)
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(20)


def until(condition, seconds=20):
    """Wait for something that another thread does soon."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_all(connection):
    """Read until the other side closes; a reset counts as the end."""
    found = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while piece := connection.recv(65536):
            found += piece
    return found


def read_answer(connection):
    """Read one answer with a content-length: its status and body."""
    head, body = read_head_and_body(connection)
    return int(head.split()[1]), body


def read_head_and_body(connection):
    """Read one answer with a content-length: its head as it is, and its body."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = connection.recv(65536)
        if not piece:
            raise EOFError(found)
        found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if b"content-length" in line.lower()
    )
    pieces = [body]
    while (length := length - len(pieces[-1])) > 0:
        pieces.append(connection.recv(2**20))
    return head, b"".join(pieces)
