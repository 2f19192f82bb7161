"""An application without models on a socket, with the connection limits of the server."""

import asyncio
import signal
from collections.abc import Callable

from starlette.types import ASGIApp

from opengte.serve.config.settings import ServerSettings
from opengte.serve.runtime import tls
from opengte.serve.runtime.connection import ConnectionObserver
from opengte.serve.runtime.listener import HttpServer, open_listeners


def serve_app(app: ASGIApp, settings: ServerSettings, ready: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status. ready is called with the address."""
    sockets, address = open_listeners(settings)

    async def serve() -> bool:
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        server = HttpServer(app, settings, ConnectionObserver())
        server.start(sockets, tls.create_context(settings))
        ready(address)
        await stopping.wait()
        server.stop_accepting()
        return await server.finish(settings.drain_timeout)

    return 0 if asyncio.run(serve()) else 1
