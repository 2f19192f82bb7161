"""One server process: from settings to an exit status.

`run` is the whole of `gte serve`; with several workers it hands over to the supervisor, whose
workers come back here. Signals: SIGTERM or SIGINT ends it gracefully, a second one at once; SIGHUP
loads models, keys and certificate again without losing a request.
"""

import asyncio
import contextlib
import gc
import ipaddress
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opengte.errors import InputError
from opengte.serve.auth.keys import KeyRing
from opengte.serve.config.paths import keys_folder
from opengte.serve.config.settings import Settings
from opengte.serve.observability import logs

if TYPE_CHECKING:
    import ssl

    from opengte.serve.runtime.components import Extend, Load, Parts
    from opengte.serve.runtime.shared_state import Common

# exit statuses: all requests had their answer; some had not in time; no model could be loaded
DONE, CUT_OFF, NO_MODEL = 0, 1, 3
WORKER = "opengte.serve.runtime.worker"  # the module of worker processes
_CLOSING = 5.0  # seconds for what is left to do after the last answer
_COLLECTIONS = 20_000, 20, 50  # requests make next to no cycles: look for them seldom
_TURN = 0.0005  # seconds until a lane that waits for the interpreter gets it from the event loop


def run(settings: Settings, extend: "Extend | None" = None, worker: str = WORKER) -> int:
    """Serve until a signal ends it; return the exit status.

    extend adds to the server; worker is the module of worker processes, which must do the same.
    """
    started = time.monotonic()
    check_access(settings)
    logs.set_up(settings.log_format, settings.log_level)  # type: ignore[arg-type]
    if settings.workers > 1:
        from opengte.serve.runtime.supervisor import Supervisor

        return _for_people(Supervisor(settings, worker).run())
    from opengte.serve.runtime.listener import listen

    sockets, address = listen(settings)
    return _for_people(
        run_loop(
            settings,
            sockets,
            lambda parts: _announce_one(parts, address, started),
            extend=extend,
        )
    )


def _for_people(status: int) -> int:
    return 1 if status == NO_MODEL else status


def run_loop(
    settings: Settings,
    sockets: Sequence[socket.socket],
    ready: "Callable[[Parts], None]",
    common: "Common | None" = None,
    prepare: "Callable[[Process], None] | None" = None,
    ended_by: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    extend: "Extend | None" = None,
) -> int:
    """Serve on sockets in this process; ready is called when the models are.

    prepare is called before anything starts, ended_by are the signals that end it.
    """
    from opengte.serve.runtime.listener import allow
    from opengte.serve.runtime.shared_state import new_common

    async def serve() -> int:
        process = Process(settings, common or new_common(1), extend=extend)
        process.handle_signals(ended_by)
        if prepare is not None:
            prepare(process)
        return await process.serve(sockets, settle)

    def settle(parts: "Parts") -> None:
        ready(parts)
        gc.freeze()  # what is there stays: no collection need look at it again
        gc.set_threshold(*_COLLECTIONS)
        sys.setswitchinterval(_TURN)

    allow(settings.max_connections)
    often, turn = gc.get_threshold(), sys.getswitchinterval()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(serve())
    finally:
        sys.setswitchinterval(turn)
        gc.set_threshold(*often)
        gc.unfreeze()


class Process:
    """A server process in a running event loop."""

    def __init__(
        self,
        settings: Settings,
        common: "Common",
        load: "Load | None" = None,
        extend: "Extend | None" = None,
    ) -> None:
        """Join the parts, without loading a model yet."""
        from opengte.serve.runtime import tls
        from opengte.serve.runtime.components import Parts
        from opengte.serve.runtime.connection import Watch
        from opengte.serve.runtime.listener import HttpServer

        self.settings = settings
        self.parts: Parts = Parts(settings, common, load, extend)
        self.tls: ssl.SSLContext | None = tls.context(settings)
        metrics = self.parts.metrics
        watch = Watch(metrics.refused, metrics.connections)
        self.server = HttpServer(self.parts.app, settings, watch)
        self.reloaded: Callable[[], None] = lambda: None  # called after each reload
        self._ending = asyncio.Event()
        self.tasks: list[asyncio.Task[Any]] = []  # that end with the process
        self._status = DONE
        self._ready = self._held = False
        self._reloading: asyncio.Task[Any] | None = None

    def handle_signals(self, ended_by: Sequence[signal.Signals]) -> None:
        """Take the signals of this process."""
        loop = asyncio.get_running_loop()
        for one in ended_by:
            loop.add_signal_handler(one, self._asked_to_end, one)
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    def end(self) -> None:
        """Begin to end: answer what is here, take nothing new."""
        self._ending.set()

    def hold(self, held: bool) -> None:
        """Say whether to accept nothing until the models are ready; another process accepts."""
        self._held = held
        self.server.hold(held and not self._ready)

    def reload(self) -> "asyncio.Task[Any]":
        """Load models, keys and certificate again; what is running goes on."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())
        return self._reloading

    async def serve(
        self, sockets: Sequence[socket.socket], ready: "Callable[[Parts], None]"
    ) -> int:
        """Serve until `end`; return the exit status."""
        from opengte.serve.inference.scheduling.thread_priority import request_short_timeslice

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(logs.on_loop_error)
        request_short_timeslice()
        began = time.monotonic()
        await self.parts.start()
        self.server.start(sockets, self.tls)
        starting = loop.create_task(self._starting(began, ready))
        await self._ending.wait()
        return await self._finish(starting)

    async def _starting(self, began: float, ready: "Callable[[Parts], None]") -> None:
        await self.parts.core.ready()
        if all(status.state == "failed" for status in self.parts.core.models()):
            for status in self.parts.core.models():
                logs.event(logs.ERROR, "model not loaded", model=status.name, error=status.detail)
            self._status = NO_MODEL
            self.end()
            return
        self.parts.metrics.set("opengte_ready_seconds", time.monotonic() - began)
        self.parts.metrics.set("opengte_start_time_seconds", time.time())
        self._ready = True
        self.server.hold(False)
        ready(self.parts)
        # now, not while the first reader of the metrics waits
        await asyncio.to_thread(self.parts.metrics.page)

    async def _finish(self, starting: "asyncio.Task[None]") -> int:
        settings = self.settings
        self.parts.draining = True
        notify("STOPPING=1")
        if self._status == DONE:
            await asyncio.sleep(settings.drain_delay)
        self.server.stop_accepting()
        for task in (starting, self._reloading, *self.tasks):
            if task is not None:
                task.cancel()
        answered = await self.server.finish(settings.drain_timeout)
        if not answered:
            logs.event(logs.ERROR, "some requests were cut off", seconds=settings.drain_timeout)
        await self.parts.close(_CLOSING)
        return self._status or (DONE if answered else CUT_OFF)

    async def _reload(self) -> dict[str, str]:
        from opengte.serve.runtime import tls

        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        if self.tls is not None:
            try:
                tls.load_certificate(self.tls, self.settings)
            except InputError as error:  # the old one goes on
                logs.event(logs.ERROR, "certificate not reloaded", error=str(error))
        outcomes = await self.parts.reload()
        notify("READY=1")
        self.reloaded()
        return outcomes

    def _asked_to_end(self, which: signal.Signals) -> None:
        if self._ending.is_set():
            os._exit(128 + which)  # at once; the journals hold what was used
        self._ending.set()


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process."""

    url: str
    parts: "Parts"
    process: Process
    loop: asyncio.AbstractEventLoop

    def call(self, coroutine: Any, seconds: float = 30.0) -> Any:
        """Run a coroutine in the server's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)


@contextlib.contextmanager
def background(
    settings: Settings, load: "Load | None" = None, extend: "Extend | None" = None
) -> Iterator[Running]:
    """Serve in a thread until the block ends, in notebooks and tests; on a free port with port=0.

    Yields once the models are loaded. load replaces how a model is loaded; extend adds routes.
    """
    from opengte.serve.runtime.listener import listen
    from opengte.serve.runtime.shared_state import new_common

    check_access(settings)
    sockets, address = listen(settings)
    here: list[Running] = []
    failed: list[BaseException] = []
    known = threading.Event()

    async def serve() -> None:
        process = Process(settings, new_common(1), load, extend)
        running = Running(address, process.parts, process, asyncio.get_running_loop())

        def ready(parts: "Parts") -> None:
            here.append(running)
            known.set()

        await process.serve(sockets, ready)

    def target() -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(serve())
            for running in here:
                running.parts.release()
        except BaseException as error:
            failed.append(error)
        finally:
            known.set()

    thread = threading.Thread(target=target, name="opengte-server", daemon=True)
    thread.start()
    known.wait()
    if failed or not here:
        for one in sockets:
            one.close()
        raise failed[0] if failed else RuntimeError("the server ended before it was ready")
    try:
        yield here[0]
    finally:
        here[0].loop.call_soon_threadsafe(here[0].process.end)
        thread.join(settings.drain_timeout + settings.drain_delay + 2 * _CLOSING)
        if failed:
            raise failed[0]


def check_access(settings: Settings) -> None:
    """Raise InputError for an address that strangers can reach, where no key is needed."""
    if settings.insecure or settings.uds is not None or is_loopback(settings.host):
        return
    ring = KeyRing(keys_folder(settings), settings.api_key)
    try:
        if ring.needed or settings.tls_client_ca is not None:
            return
    finally:
        ring.close()
    raise InputError(
        f"host: `{settings.host}` can be reached by other machines and there are no API keys; make "
        "one with `gte keys create NAME`, or allow everyone with --insecure"
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def announce(
    models: list[dict[str, Any]], address: str, started: float, keys: bool, workers: int
) -> None:
    """Log what is served and where, and tell systemd."""
    notify("READY=1")
    logs.event(
        logs.INFO,
        "serving",
        address=address,
        seconds=round(time.monotonic() - started, 3),
        keys="needed" if keys else "not needed",
        workers=workers,
    )
    for model in models:
        ready = model["state"] == "ready"
        logs.event(logs.INFO if ready else logs.ERROR, "model", **model)


def _announce_one(parts: "Parts", address: str, started: float) -> None:
    announce(describe(parts), address, started, parts.gate.needed, 1)


def describe(parts: "Parts") -> list[dict[str, Any]]:
    """Return what there is to tell of each model."""
    found = []
    for status in parts.core.models():
        card = status.card
        said = {
            "model": status.name,
            "state": status.state,
            "detail": status.detail,
            "engine": card.engine if card else None,
            "precision": card.precision if card else None,
            "threads": card.threads if card else None,
            "batch_tokens": status.max_batch_tokens,
            "queue_tokens": status.max_queue_tokens,
        }
        found.append({name: value for name, value in said.items() if value is not None})
    return found


def notify(message: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one, contextlib.suppress(OSError):
        one.connect(path)
        one.sendall(message.encode())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop where it is installed; it saves a tenth of a millisecond a request."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
