"""Several worker processes at one socket: started, watched, replaced, reloaded and ended.

The supervisor loads no model and answers no request. Workers are new Python processes, not forks:
engines have threads, which a fork would lose. They accept from one shared socket, so that what
waits there is lost with none of them, and map the same prepared weights, so that these are in
memory once. A worker tells how it is over a pipe, a line a second.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from opengte.serve.auth.keys import KeyRing
from opengte.serve.config.paths import keys_folder
from opengte.serve.config.settings import Settings
from opengte.serve.observability import logs
from opengte.serve.runtime import tls
from opengte.serve.runtime.listener import listen
from opengte.serve.runtime.process import CUT_OFF, DONE, NO_MODEL, WORKER, announce, notify
from opengte.serve.runtime.shared_state import new_common
from opengte.serve.runtime.worker import Told

_SILENCE = 30.0  # seconds without a sign of life after which a worker is taken for hanging
_SHORT = 10.0  # a worker that lived less long is started again after a pause, longer each time
_PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_RELOAD = 300.0  # seconds for a worker to reload before the next one is asked
_GRACE = 10.0  # seconds beyond the drain before workers are killed


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    status: int  # descriptor to read from
    started: float
    heard: float
    hold: bool  # it was told to accept nothing until it is ready
    unread: bytes = b""
    ready: bool = False


@dataclass
class _Place:
    """One row of the metrics, and the worker that has it."""

    row: int
    worker: _Worker | None = None
    short_lives: int = 0
    start_at: float = 0.0
    starts: int = field(default=0)


class Supervisor:
    """Keeps as many workers at work as the settings say."""

    def __init__(self, settings: Settings, worker: str = WORKER) -> None:
        tls.context(settings)  # what is wrong with it is better said once
        self._settings = settings
        self._module = worker
        self._begun = time.monotonic()
        self._sockets, self._address = listen(settings)
        self._common = new_common(settings.workers)
        self._places = [_Place(row) for row in range(settings.workers)]
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._to_reload: list[_Place] = []
        self._reloading: tuple[_Place, float] | None = None
        self._announced = False
        self._ending = 0  # the signal
        self._status = DONE

    def run(self) -> int:
        """Work until a signal ends it; return the exit status."""
        with self._catching_signals():
            while not self._over():
                self._start_due()
                for key, _ in self._selector.select(timeout=0.25):
                    self._read(key)
                self._obey()
                self._bury()
                self._watch()
                self._hold()
                self._reload_next()
        for one in self._sockets:
            one.close()
        self._common.close()
        return self._status

    def _over(self) -> bool:
        if not self._ending:
            return False
        living = [place.worker for place in self._places if place.worker is not None]
        if living and time.monotonic() > self._deadline:
            logs.event(logs.ERROR, "workers killed after the drain", workers=len(living))
            self._status = CUT_OFF
            for worker in living:
                worker.process.kill()
        return not living

    # workers

    def _start_due(self) -> None:
        for place in self._places:
            if place.worker is None and not self._ending and time.monotonic() >= place.start_at:
                place.worker = self._start(place)

    def _start(self, place: _Place) -> _Worker:
        read, write = os.pipe()
        os.set_inheritable(write, True)
        sockets = tuple(one.fileno() for one in self._sockets)
        common = self._common.descriptors()
        process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            pass_fds=(*sockets, *common, write),
        )
        os.close(write)
        assert process.stdin is not None
        hold = self._any_ready()
        told = Told(asdict(self._settings), place.row, sockets, common, write, hold)
        with contextlib.suppress(BrokenPipeError):  # it died; that is seen elsewhere
            process.stdin.write(told.line())
            process.stdin.flush()
        os.set_blocking(read, False)
        self._selector.register(read, selectors.EVENT_READ, place)
        place.starts += 1
        now = time.monotonic()
        return _Worker(process, read, now, now, hold)

    def _any_ready(self) -> bool:
        return any(place.worker is not None and place.worker.ready for place in self._places)

    def _hold(self) -> None:
        """Have workers that load accept only while no other one is ready.

        They would answer 503 to what a ready worker can answer.
        """
        hold = self._any_ready()
        for place in self._places:
            worker = place.worker
            if worker is None or worker.ready or worker.hold == hold:
                continue
            worker.hold = hold
            assert worker.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it died; that is seen elsewhere
                worker.process.stdin.write(b"hold\n" if hold else b"accept\n")
                worker.process.stdin.flush()

    def _read(self, key: selectors.SelectorKey) -> None:
        place = key.data
        if place is None:
            os.read(key.fd, 4096)  # a signal woke us
            return
        worker: _Worker | None = place.worker
        if worker is None or worker.status != key.fd:
            return
        piece = os.read(key.fd, 65536)
        if not piece:
            self._selector.unregister(key.fd)
            os.close(key.fd)
            worker.status = -1
            return
        worker.heard = time.monotonic()
        *lines, worker.unread = (worker.unread + piece).split(b"\n")
        for line in lines:
            what, _, value = line.partition(b" ")
            self._hear(place, what.decode(), json.loads(value))

    def _hear(self, place: _Place, what: str, value: Any) -> None:
        assert place.worker is not None
        if what == "ready":
            place.worker.ready = True
            self._announce(value)
        elif what == "reload":
            self._ask_to_reload()
        elif what == "reloaded" and self._reloading and self._reloading[0] is place:
            self._reloading = None

    def _announce(self, models: list[dict[str, Any]]) -> None:
        if self._announced or not all(p.worker and p.worker.ready for p in self._places):
            return
        self._announced = True
        ring = KeyRing(keys_folder(self._settings), self._settings.api_key)
        announce(models, self._address, self._begun, ring.needed, len(self._places))
        ring.close()

    def _bury(self) -> None:
        """Take note of the workers that ended."""
        for place in self._places:
            worker = place.worker
            if worker is None or (status := worker.process.poll()) is None:
                continue
            place.worker = None
            if worker.status >= 0:
                self._selector.unregister(worker.status)
                os.close(worker.status)
            assert worker.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()
            if self._ending:
                # SIGTERM itself ends one that does not listen yet, and so has nobody to answer
                done = status in (0, -signal.SIGTERM)
                self._status = self._status or (DONE if done else CUT_OFF)
            elif status == NO_MODEL and not self._announced:
                self._end(signal.SIGTERM)
                self._status = NO_MODEL
            else:
                self._replace(place, worker, status)

    def _replace(self, place: _Place, worker: _Worker, status: int) -> None:
        now = time.monotonic()
        place.short_lives = place.short_lives + 1 if now - worker.started < _SHORT else 0
        pause = _PAUSES[min(place.short_lives, len(_PAUSES) - 1)]
        place.start_at = now + pause
        logs.event(
            logs.ERROR, "worker ended", worker=place.row, status=status, starts_again_in=pause
        )

    def _watch(self) -> None:
        """Kill the workers that give no sign of life."""
        for place in self._places:
            worker = place.worker
            if worker is not None and time.monotonic() - worker.heard > _SILENCE:
                logs.event(logs.ERROR, "worker hangs", worker=place.row, seconds=_SILENCE)
                worker.process.kill()
                worker.heard = time.monotonic()

    # signals

    @contextlib.contextmanager
    def _catching_signals(self) -> Any:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        self._selector.register(read, selectors.EVENT_READ, None)
        caught = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {one: signal.signal(one, self._caught) for one in caught}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for one, handler in before.items():
                signal.signal(one, handler)
            self._selector.close()
            os.close(read)
            os.close(write)

    def _caught(self, number: int, frame: Any) -> None:
        self._signals.append(number)

    def _obey(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGHUP:
                self._ask_to_reload()
            elif self._ending:  # asked twice: at once
                self._signal_all(signal.SIGKILL)
                self._status = 128 + number
            else:
                self._end(number)

    def _end(self, number: int) -> None:
        self._ending = number
        self._deadline = (
            time.monotonic() + self._settings.drain_delay + self._settings.drain_timeout + _GRACE
        )
        notify("STOPPING=1")
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: int) -> None:
        for place in self._places:
            if place.worker is not None:
                place.worker.process.send_signal(number)

    # reloading: one worker after the other, so that the memory of only one is doubled

    def _ask_to_reload(self) -> None:
        self._to_reload = list(self._places)

    def _reload_next(self) -> None:
        if self._reloading is not None:
            place, since = self._reloading
            gone = place.worker is None or time.monotonic() - since > _RELOAD
            if not gone:
                return
            self._reloading = None
        while self._to_reload and not self._ending:
            place = self._to_reload.pop(0)
            if place.worker is not None and place.worker.ready:
                self._reloading = (place, time.monotonic())
                place.worker.process.send_signal(signal.SIGHUP)
                return
