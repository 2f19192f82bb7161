"""Several worker processes at one socket: starts, watches, replaces, reloads and ends them.

The supervisor loads no model and answers no request. Workers are new Python processes, not forks:
engines have threads, which a fork would lose. They accept from one shared socket, so that
connections which wait there survive the death of a worker, and they map the same prepared weights,
so that these are in memory once. Each worker sends a heartbeat once a second.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from opengte.serve.auth.keys import KeyRing
from opengte.serve.config.paths import keys_folder
from opengte.serve.config.settings import ServerSettings
from opengte.serve.observability import logs
from opengte.serve.runtime import tls
from opengte.serve.runtime.lifecycle import (
    CUT_OFF,
    DONE,
    NO_MODEL,
    WORKER_MODULE,
    announce,
    notify_systemd,
)
from opengte.serve.runtime.listener import open_listeners
from opengte.serve.runtime.shared_state import SharedState
from opengte.serve.runtime.worker_protocol import ACCEPT, PAUSE, LineReader, WorkerConfig

_HANG_SECONDS = 30.0  # without a heartbeat, after which a worker is killed
_SHORT_LIFE = 10.0  # a worker that lived less long is restarted after a pause, longer each time
_PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_RELOAD_SECONDS = 300.0  # for a worker to reload before the next one is asked
_GRACE = 10.0  # seconds beyond the drain before workers are killed


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    status: LineReader | None  # of the pipe that it writes to; None once it is closed
    started: float
    last_heard: float
    paused: bool  # it accepts nothing until it is ready
    ready: bool = False

    def send(self, line: bytes) -> None:
        """Write to its stdin; `_reap` sees it if the worker is dead."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line)
            self.process.stdin.flush()


@dataclass
class _Slot:
    """One row of the metrics, and the worker that writes it."""

    row: int
    worker: _Worker | None = None
    short_lives: int = 0
    start_at: float = 0.0


class Supervisor:
    """Keeps as many workers running as the settings say."""

    def __init__(self, settings: ServerSettings, worker_module: str = WORKER_MODULE) -> None:
        tls.create_context(settings)  # report what is wrong with it once, not once a worker
        self._settings = settings
        self._module = worker_module
        self._started = time.monotonic()
        self._sockets, self._address = open_listeners(settings)
        self._shared = SharedState.create(settings.workers)
        self._slots = [_Slot(row) for row in range(settings.workers)]
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._to_reload: list[_Slot] = []
        self._reloading: tuple[_Slot, float] | None = None
        self._announced = False
        self._stopped_by = 0  # the signal
        self._status = DONE

    def run(self) -> int:
        """Run until a signal ends it; return the exit status."""
        with self._catching_signals():
            while not self._is_finished():
                self._start_due()
                for key, _ in self._selector.select(timeout=0.25):
                    self._read(key)
                self._handle_signals()
                self._reap()
                self._kill_hung()
                self._update_pauses()
                self._reload_next()
        for listener in self._sockets:
            listener.close()
        self._shared.close()
        return self._status

    def _is_finished(self) -> bool:
        if not self._stopped_by:
            return False
        alive = [slot.worker for slot in self._slots if slot.worker is not None]
        if alive and time.monotonic() > self._deadline:
            logs.event(logs.ERROR, "workers killed after the drain", workers=len(alive))
            self._status = CUT_OFF
            for worker in alive:
                worker.process.kill()
        return not alive

    # workers

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.worker is None and not self._stopped_by and time.monotonic() >= slot.start_at:
                slot.worker = self._start(slot)

    def _start(self, slot: _Slot) -> _Worker:
        read, write = os.pipe()
        os.set_inheritable(write, True)
        sockets = tuple(listener.fileno() for listener in self._sockets)
        shared = self._shared.descriptors()
        process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            pass_fds=(*sockets, *shared, write),
        )
        os.close(write)
        paused = self._any_ready()
        now = time.monotonic()
        worker = _Worker(process, LineReader(read), now, now, paused)
        worker.send(
            WorkerConfig(self._settings, slot.row, sockets, shared, write, paused).to_line()
        )
        os.set_blocking(read, False)
        self._selector.register(read, selectors.EVENT_READ, slot)
        return worker

    def _any_ready(self) -> bool:
        return any(slot.worker is not None and slot.worker.ready for slot in self._slots)

    def _update_pauses(self) -> None:
        """Let workers that load accept connections only while no other worker is ready.

        They would answer 503 to what a ready worker can answer.
        """
        paused = self._any_ready()
        for slot in self._slots:
            worker = slot.worker
            if worker is None or worker.ready or worker.paused == paused:
                continue
            worker.paused = paused
            worker.send((PAUSE if paused else ACCEPT) + b"\n")

    def _read(self, key: selectors.SelectorKey) -> None:
        slot = key.data
        if slot is None:
            os.read(key.fd, 4096)  # a signal woke us
            return
        worker: _Worker | None = slot.worker
        if worker is None or worker.status is None or worker.status.descriptor != key.fd:
            return
        lines = worker.status.read()
        if lines is None:
            self._close_status(worker)
            return
        worker.last_heard = time.monotonic()
        for line in lines:
            event, _, value = line.partition(b" ")
            self._on_message(slot, event.decode(), json.loads(value))

    def _close_status(self, worker: _Worker) -> None:
        if worker.status is not None:
            self._selector.unregister(worker.status.descriptor)
            os.close(worker.status.descriptor)
            worker.status = None

    def _on_message(self, slot: _Slot, event: str, value: Any) -> None:
        assert slot.worker is not None
        if event == "ready":
            slot.worker.ready = True
            self._announce(value)
        elif event == "reload":
            self._reload_all()
        elif event == "reloaded" and self._reloading and self._reloading[0] is slot:
            self._reloading = None

    def _announce(self, models: list[dict[str, Any]]) -> None:
        if self._announced or not all(slot.worker and slot.worker.ready for slot in self._slots):
            return
        self._announced = True
        ring = KeyRing(keys_folder(self._settings), self._settings.api_key)
        announce(models, self._address, self._started, ring.key_needed, len(self._slots))
        ring.close()

    def _reap(self) -> None:
        """Collect the workers that ended, and plan their replacement."""
        for slot in self._slots:
            worker = slot.worker
            if worker is None or (status := worker.process.poll()) is None:
                continue
            slot.worker = None
            self._close_status(worker)
            assert worker.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()
            if self._stopped_by:
                # a worker that does not handle signals yet dies of SIGTERM, with nobody to answer
                done = status in (0, -signal.SIGTERM)
                self._status = self._status or (DONE if done else CUT_OFF)
            elif status == NO_MODEL and not self._announced:
                self._stop(signal.SIGTERM)
                self._status = NO_MODEL
            else:
                self._plan_restart(slot, worker, status)

    def _plan_restart(self, slot: _Slot, worker: _Worker, status: int) -> None:
        now = time.monotonic()
        slot.short_lives = slot.short_lives + 1 if now - worker.started < _SHORT_LIFE else 0
        pause = _PAUSES[min(slot.short_lives, len(_PAUSES) - 1)]
        slot.start_at = now + pause
        logs.event(
            logs.ERROR, "worker ended", worker=slot.row, status=status, starts_again_in=pause
        )

    def _kill_hung(self) -> None:
        """Kill the workers whose heartbeat stopped."""
        for slot in self._slots:
            worker = slot.worker
            if worker is not None and time.monotonic() - worker.last_heard > _HANG_SECONDS:
                logs.event(logs.ERROR, "worker hangs", worker=slot.row, seconds=_HANG_SECONDS)
                worker.process.kill()
                worker.last_heard = time.monotonic()

    # signals

    @contextlib.contextmanager
    def _catching_signals(self) -> Any:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        self._selector.register(read, selectors.EVENT_READ, None)
        caught = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in caught}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(read)
            os.close(write)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signals.append(number)

    def _handle_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGHUP:
                self._reload_all()
            elif self._stopped_by:  # the second one: at once
                self._signal_all(signal.SIGKILL)
                self._status = 128 + number
            else:
                self._stop(number)

    def _stop(self, number: int) -> None:
        self._stopped_by = number
        self._deadline = (
            time.monotonic() + self._settings.drain_delay + self._settings.drain_timeout + _GRACE
        )
        notify_systemd("STOPPING=1")
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: int) -> None:
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.process.send_signal(number)

    # reloading: one worker after the other, so that only one holds two copies of its models

    def _reload_all(self) -> None:
        self._to_reload = list(self._slots)

    def _reload_next(self) -> None:
        if self._reloading is not None:
            slot, since = self._reloading
            gone = slot.worker is None or time.monotonic() - since > _RELOAD_SECONDS
            if not gone:
                return
            self._reloading = None
        while self._to_reload and not self._stopped_by:
            slot = self._to_reload.pop(0)
            if slot.worker is not None and slot.worker.ready:
                self._reloading = (slot, time.monotonic())
                slot.worker.process.send_signal(signal.SIGHUP)
                return
