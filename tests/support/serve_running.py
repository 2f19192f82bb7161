"""A real server in a thread: real models, real sockets, for tests with real clients."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn

from opengte.serve.config.inference import ModelSettings
from opengte.serve.config.settings import ServerSettings
from opengte.serve.http.app import AppOptions, build_app
from opengte.serve.inference.service import InferenceService
from opengte.serve.runtime.listener import open_listeners
from opengte.serve.runtime.process import ServerProcess
from opengte.serve.runtime.shared_state import SharedState


@contextlib.contextmanager
def running(
    models: Sequence[ModelSettings], authorizer: Any = None, service: Any = None, **options: Any
) -> Iterator[str]:
    """Serve until the block ends; yields the address, once the models are loaded."""
    listener = socket.create_server(("127.0.0.1", 0))
    known = threading.Event()
    failed: list[BaseException] = []
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        core = service or InferenceService(models)
        if service is None:
            await core.start()
            await core.ready()
        app = build_app(core, authorizer, AppOptions(**options))
        config = uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False)
        servers.append(uvicorn.Server(config))
        known.set()
        await servers[0].serve(sockets=[listener])
        if service is None:
            await core.drain(5)

    def target() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            known.set()

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    known.wait(120)
    try:
        if failed:
            raise failed[0]
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(30)
        listener.close()


@contextlib.contextmanager
def starting(load: Any, **settings: Any) -> Iterator[str]:
    """Serve until the block ends; yields the address as soon as the socket listens."""
    wanted = ServerSettings(port=0, **settings)
    sockets, address = open_listeners(wanted)
    known = threading.Event()
    running: list[tuple[ServerProcess, asyncio.AbstractEventLoop]] = []

    async def serve() -> None:
        process = ServerProcess(wanted, SharedState.create(1), load)
        running.append((process, asyncio.get_running_loop()))
        known.set()
        await process.serve(sockets, lambda components: None)
        process.components.release()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert known.wait(30)
    process, loop = running[0]
    try:
        yield address
    finally:
        with contextlib.suppress(RuntimeError):  # it ended by itself
            loop.call_soon_threadsafe(process.stop)
        thread.join(40)
