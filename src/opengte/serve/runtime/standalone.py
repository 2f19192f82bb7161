"""An application alone on a socket, without models: with the server's patience, until a signal."""

import asyncio
import signal
from collections.abc import Callable

from opengte.serve.config.settings import Settings
from opengte.serve.http.middleware.observe import App
from opengte.serve.runtime import tls
from opengte.serve.runtime.connection import Watch
from opengte.serve.runtime.listener import HttpServer, listen


def run(app: App, settings: Settings, ready: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; ready is called with the address. Return the exit status."""
    sockets, address = listen(settings)

    async def serve() -> bool:
        loop = asyncio.get_running_loop()
        ending = asyncio.Event()
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(one, ending.set)
        server = HttpServer(app, settings, Watch())
        server.start(sockets, tls.context(settings))
        ready(address)
        await ending.wait()
        server.stop_accepting()
        return await server.finish(settings.drain_timeout)

    return 0 if asyncio.run(serve()) else 1
