"""A worker process: told over stdin what to serve, it tells over a pipe how it is.

Run as `python -m opengte.serve.runtime.worker`. The first line of stdin is a `Told`, and further
ones say whether a worker whose models are not ready yet accepts connections: `accept` when no other
worker is ready either, `hold` when one is. When stdin ends, the supervisor is gone, and the worker
ends too.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from opengte.serve.config.settings import Settings

if TYPE_CHECKING:
    from opengte.serve.runtime.components import Extend, Parts
    from opengte.serve.runtime.process import Process

BEAT = 1.0  # seconds between signs of life


@dataclass(frozen=True)
class Told:
    """What a worker must know: settings, its row, and the descriptors that it inherits.

    hold says that it accepts nothing until its models are ready, or until it hears otherwise.
    """

    settings: dict[str, Any]
    row: int
    sockets: tuple[int, ...]
    common: tuple[int, int, int]
    status: int
    hold: bool = False

    def line(self) -> bytes:
        """Return this as a line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"


def told(line: bytes) -> Told:
    """Read what `Told.line` wrote."""
    values = json.loads(line)
    return Told(
        values["settings"],
        values["row"],
        tuple(values["sockets"]),
        (values["common"][0], values["common"][1], values["common"][2]),
        values["status"],
        values["hold"],
    )


def as_settings(values: Mapping[str, Any]) -> Settings:
    """Return settings from what JSON made of them."""
    listed = {one.name for one in fields(Settings) if isinstance(one.default, tuple)}
    given: dict[str, Any] = {
        name: tuple(value) if name in listed else value for name, value in values.items()
    }
    return Settings(**given)


def main(extend: "Extend | None" = None) -> int:
    """Serve until the supervisor says otherwise; extend adds to the server."""
    from opengte.serve.observability import logs
    from opengte.serve.runtime import process
    from opengte.serve.runtime.shared_state import join_common

    work = told(_first_line(sys.stdin.fileno()))
    settings = as_settings(work.settings)
    logs.set_up(settings.log_format, settings.log_level)  # type: ignore[arg-type]
    sockets = [socket.socket(fileno=descriptor) for descriptor in work.sockets]

    def say(what: str, value: Any = None) -> None:
        os.write(work.status, f"{what} {json.dumps(value)}\n".encode())

    def ready(parts: "Parts") -> None:
        say("ready", process.describe(parts))

    def prepare(one: "Process") -> None:
        loop = asyncio.get_running_loop()
        one.tasks.append(loop.create_task(_beat(say)))
        one.reloaded = lambda: say("reloaded")
        one.hold(work.hold)
        loop.add_reader(sys.stdin.fileno(), _heard, one, loop)

        async def ask() -> dict[str, str]:
            say("reload")  # the supervisor has the workers reload one after the other
            return {model.name: "asked" for model in settings.models}

        one.parts.reload_everywhere = ask

    common = join_common(work.common, settings.workers, work.row)
    # Ctrl-C goes to all processes of a terminal; the supervisor alone decides what it means
    return process.run_loop(settings, sockets, ready, common, prepare, (signal.SIGTERM,), extend)


async def _beat(say: Any) -> None:
    try:
        while True:
            say("beat")
            await asyncio.sleep(BEAT)
    finally:  # a reader that stays would keep the engine alive beyond the interpreter
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())


def _heard(process: "Process", loop: asyncio.AbstractEventLoop) -> None:
    """Obey the last line that the supervisor wrote; end when it is gone."""
    lines = os.read(sys.stdin.fileno(), 4096).split()
    if lines:
        process.hold(lines[-1] == b"hold")
        return
    loop.remove_reader(sys.stdin.fileno())
    process.end()


def _first_line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(descriptor, 65536)
        if not piece:
            raise SystemExit("the supervisor said nothing")
        line += piece
    return line


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(main())
