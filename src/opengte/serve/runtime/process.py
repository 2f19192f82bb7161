"""One server process: from its components to an exit status.

SIGTERM or SIGINT ends it gracefully, a second one at once; SIGHUP reloads models, keys and
certificate without losing a request.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from opengte.errors import InputError
from opengte.serve.config.settings import ServerSettings
from opengte.serve.observability import logs
from opengte.serve.runtime.lifecycle import CUT_OFF, DONE, NO_MODEL, notify_systemd

if TYPE_CHECKING:
    import ssl

    from opengte.serve.inference.loading import ModelLoader
    from opengte.serve.runtime.components import Components, ExtensionFactory
    from opengte.serve.runtime.shared_state import SharedState

CLOSE_SECONDS = 5.0  # for closing everything after the last answer
_GC_THRESHOLDS = 20_000, 20, 50  # requests make next to no reference cycles: collect seldom
_SWITCH_INTERVAL = 0.0005  # seconds until a thread that waits for the GIL gets it from the loop


def run_process(
    settings: ServerSettings,
    sockets: Sequence[socket.socket],
    ready: "Callable[[Components], None]",
    shared: "SharedState | None" = None,
    prepare: "Callable[[ServerProcess], None] | None" = None,
    ended_by: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    extend: "ExtensionFactory | None" = None,
) -> int:
    """Serve on sockets in this process until a signal ends it; return the exit status.

    prepare is called before anything starts, ready once the models are loaded; ended_by are the
    signals that end the process.
    """
    from opengte.serve.runtime.listener import raise_open_file_limit
    from opengte.serve.runtime.shared_state import SharedState

    async def serve() -> int:
        process = ServerProcess(settings, shared or SharedState.create(1), extend=extend)
        process.handle_signals(ended_by)
        if prepare is not None:
            prepare(process)
        return await process.serve(sockets, tune_and_report)

    def tune_and_report(components: "Components") -> None:
        ready(components)
        gc.freeze()  # objects of the start live as long as the process: no need to scan them
        gc.set_threshold(*_GC_THRESHOLDS)
        sys.setswitchinterval(_SWITCH_INTERVAL)

    raise_open_file_limit(settings.max_connections)
    thresholds, switch_interval = gc.get_threshold(), sys.getswitchinterval()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(serve())
    finally:
        sys.setswitchinterval(switch_interval)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


class ServerProcess:
    """A server process in a running event loop."""

    def __init__(
        self,
        settings: ServerSettings,
        shared: "SharedState",
        load: "ModelLoader | None" = None,
        extend: "ExtensionFactory | None" = None,
    ) -> None:
        """Create the components; no model is loaded yet."""
        from opengte.serve.runtime import tls
        from opengte.serve.runtime.components import Components
        from opengte.serve.runtime.connection import ConnectionObserver
        from opengte.serve.runtime.listener import HttpServer

        self.settings = settings
        self.components: Components = Components(settings, shared, load, extend)
        self.tls: ssl.SSLContext | None = tls.create_context(settings)
        metrics = self.components.metrics
        observer = ConnectionObserver(metrics.connection_refused, metrics.set_connections)
        self.server = HttpServer(self.components.app, settings, observer)
        self.on_reloaded: Callable[[], None] = lambda: None  # called after each reload
        self.tasks: list[asyncio.Task[Any]] = []  # cancelled when the process ends
        self._stopping = asyncio.Event()
        self._status = DONE
        self._ready = False
        self._reloading: asyncio.Task[Any] | None = None

    def handle_signals(self, ended_by: Sequence[signal.Signals]) -> None:
        """Install the signal handlers of this process."""
        loop = asyncio.get_running_loop()
        for number in ended_by:
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    def stop(self) -> None:
        """Begin a graceful shutdown: answer the requests in flight, accept no more."""
        self._stopping.set()

    def pause(self, paused: bool) -> None:
        """Set whether to accept no connection until the models are ready (others accept them)."""
        self.server.pause(paused and not self._ready)

    def reload(self) -> "asyncio.Task[Any]":
        """Reload models, keys and certificate; requests in flight go on."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())
        return self._reloading

    async def serve(
        self, sockets: Sequence[socket.socket], ready: "Callable[[Components], None]"
    ) -> int:
        """Serve until `stop` is called; return the exit status."""
        from opengte.serve.inference.scheduling.thread_priority import request_short_timeslice

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(logs.on_loop_error)
        request_short_timeslice()
        began = time.monotonic()
        await self.components.start()
        self.server.start(sockets, self.tls)
        starting = loop.create_task(self._wait_for_models(began, ready))
        await self._stopping.wait()
        return await self._drain(starting)

    async def _wait_for_models(self, began: float, ready: "Callable[[Components], None]") -> None:
        service, metrics = self.components.service, self.components.metrics
        await service.ready()
        if all(status.state == "failed" for status in service.models()):
            for status in service.models():
                logs.event(logs.ERROR, "model not loaded", model=status.name, error=status.detail)
            self._status = NO_MODEL
            self.stop()
            return
        metrics.set_gauge("opengte_ready_seconds", time.monotonic() - began)
        metrics.set_gauge("opengte_start_time_seconds", time.time())
        self._ready = True
        self.server.pause(False)
        ready(self.components)
        # the first page imports and compiles things: do it now, not while a scraper waits
        await asyncio.to_thread(metrics.render)
        self.server.refuse_when_behind()

    async def _drain(self, starting: "asyncio.Task[None]") -> int:
        settings = self.settings
        self.components.draining = True
        notify_systemd("STOPPING=1")
        if self._status == DONE:
            await asyncio.sleep(settings.drain_delay)
        self.server.stop_accepting()
        for task in (starting, self._reloading, *self.tasks):
            if task is not None:
                task.cancel()
        answered = await self.server.finish(settings.drain_timeout)
        if not answered:
            logs.event(logs.ERROR, "some requests were cut off", seconds=settings.drain_timeout)
        await self.components.close(CLOSE_SECONDS)
        return self._status or (DONE if answered else CUT_OFF)

    async def _reload(self) -> dict[str, str]:
        from opengte.serve.runtime import tls

        notify_systemd(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        if self.tls is not None:
            try:
                tls.load_certificate(self.tls, self.settings)
            except InputError as error:  # the old certificate stays in use
                logs.event(logs.ERROR, "certificate not reloaded", error=str(error))
        outcomes = await self.components.reload()
        notify_systemd("READY=1")
        self.on_reloaded()
        return outcomes

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            os._exit(128 + number)  # at once; usage is safe in the journals
        self._stopping.set()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop if it is installed (it saves 0.1 ms a request), else None."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
