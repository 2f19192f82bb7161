"""A worker process, run by the supervisor as `python -m opengte.serve.runtime.worker`.

`worker_protocol` describes what the two tell each other. When stdin ends, the supervisor is gone,
and the worker ends too.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opengte.serve.runtime.worker_protocol import HEARTBEAT, PAUSE, LineReader, WorkerConfig

if TYPE_CHECKING:
    from opengte.serve.runtime.components import Components, ExtensionFactory
    from opengte.serve.runtime.process import ServerProcess


def run_worker(extend: "ExtensionFactory | None" = None) -> int:
    """Serve until the supervisor ends it; extend adds routes. Return the exit status."""
    from opengte.serve.observability import logs
    from opengte.serve.runtime.lifecycle import describe_models
    from opengte.serve.runtime.process import run_process
    from opengte.serve.runtime.shared_state import SharedState

    # Ctrl-C goes to all processes of a terminal; the supervisor alone decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stdin = LineReader(sys.stdin.fileno())
    first, *later = _first_lines(stdin)
    config = WorkerConfig.from_line(first)
    settings = config.settings
    logs.configure(settings.log_format, settings.log_level)  # type: ignore[arg-type]
    sockets = [socket.socket(fileno=descriptor) for descriptor in config.sockets]

    def send(event: str, value: Any = None) -> None:
        os.write(config.status, f"{event} {json.dumps(value)}\n".encode())

    def ready(components: "Components") -> None:
        send("ready", describe_models(components))

    def prepare(process: "ServerProcess") -> None:
        loop = asyncio.get_running_loop()
        process.tasks.append(loop.create_task(_send_heartbeats(send)))
        process.on_reloaded = lambda: send("reloaded")
        process.pause(config.paused)
        _follow(process, later)
        loop.add_reader(stdin.descriptor, _on_stdin, stdin, process, loop)

        async def reload_everywhere() -> dict[str, str]:
            send("reload")  # the supervisor reloads the workers one after the other
            return {model.name: "asked" for model in settings.models}

        process.components.reload_everywhere = reload_everywhere

    shared = SharedState.join(config.shared, settings.workers, config.row)
    return run_process(settings, sockets, ready, shared, prepare, (signal.SIGTERM,), extend)


async def _send_heartbeats(send: Callable[[str], None]) -> None:
    try:
        while True:
            send("beat")
            await asyncio.sleep(HEARTBEAT)
    finally:  # a reader that stays would keep the engine alive after the interpreter has ended
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())


def _first_lines(stdin: LineReader) -> list[bytes]:
    """Wait for the configuration; return it and the lines that came with it."""
    lines: list[bytes] | None = []
    while not lines:
        lines = stdin.read()
        if lines is None:
            raise SystemExit("the supervisor ended before it sent the configuration")
    return lines


def _follow(process: "ServerProcess", lines: list[bytes]) -> None:
    """Do what the last line says."""
    if lines:
        process.pause(lines[-1] == PAUSE)


def _on_stdin(stdin: LineReader, process: "ServerProcess", loop: asyncio.AbstractEventLoop) -> None:
    """Follow the supervisor; stop when it is gone."""
    lines = stdin.read()
    if lines is not None:
        _follow(process, lines)
        return
    loop.remove_reader(stdin.descriptor)
    process.stop()


if __name__ == "__main__":
    raise SystemExit(run_worker())
