"""A server in a thread of this process, for notebooks and tests."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from opengte.serve.config.settings import ServerSettings
from opengte.serve.inference.loading import ModelLoader
from opengte.serve.runtime.components import Components, ExtensionFactory
from opengte.serve.runtime.listener import open_listeners
from opengte.serve.runtime.main import check_access
from opengte.serve.runtime.process import CLOSE_SECONDS, ServerProcess, loop_factory
from opengte.serve.runtime.shared_state import SharedState


@dataclass(frozen=True)
class BackgroundServer:
    """A server in a thread of this process."""

    url: str
    components: Components
    process: ServerProcess
    loop: asyncio.AbstractEventLoop


@contextlib.contextmanager
def background(
    settings: ServerSettings,
    load: ModelLoader | None = None,
    extend: ExtensionFactory | None = None,
) -> Iterator[BackgroundServer]:
    """Serve in a thread until the block ends; port=0 takes a free port.

    Yields once the models are loaded. load replaces how a model is loaded; extend adds routes.
    Raises what starting the server raises.

    >>> import json, urllib.request
    >>> with background(ServerSettings(model=("minilm",), port=0, usage=False)) as server:
    ...     body = json.dumps({"input": ["Cats eat meat."]}).encode()
    ...     with urllib.request.urlopen(f"{server.url}/v1/embeddings", body) as answer:
    ...         data = json.load(answer)["data"]
    >>> len(data), len(data[0]["embedding"])
    (1, 384)
    """
    check_access(settings)
    sockets, address = open_listeners(settings)
    started: list[BackgroundServer] = []
    failures: list[BaseException] = []
    decided = threading.Event()

    async def serve() -> None:
        process = ServerProcess(settings, SharedState.create(1), load, extend)
        server = BackgroundServer(address, process.components, process, asyncio.get_running_loop())

        def ready(components: Components) -> None:
            started.append(server)
            decided.set()

        await process.serve(sockets, ready)

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(serve())
            for server in started:
                server.components.release()
        except BaseException as error:
            failures.append(error)
        finally:
            decided.set()

    thread = threading.Thread(target=run, name="opengte-server", daemon=True)
    thread.start()
    decided.wait()
    if failures or not started:
        for listener in sockets:
            listener.close()
        raise failures[0] if failures else RuntimeError("the server ended before it was ready")
    server = started[0]
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(server.process.stop)
        thread.join(settings.drain_timeout + settings.drain_delay + 2 * CLOSE_SECONDS)
        if failures:
            raise failures[0]
