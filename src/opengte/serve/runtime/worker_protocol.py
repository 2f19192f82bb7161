"""What a supervisor and its workers tell each other.

The supervisor writes to a worker's stdin: one line of JSON, a `WorkerConfig`, and then `pause` or
`accept` lines for a worker whose models are not ready yet. The worker writes lines `EVENT JSON` to
a pipe: `beat`, `ready`, `reload` (a client asked for it) and `reloaded`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from opengte.serve.config.settings import ServerSettings

HEARTBEAT = 1.0  # seconds between two `beat` lines
PAUSE, ACCEPT = b"pause", b"accept"


class LineReader:
    """Reads whole lines from a pipe, however its bytes arrive."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._unread = b""

    def read(self) -> list[bytes] | None:
        """Return the lines that are complete after one read, perhaps none; None at the end."""
        chunk = os.read(self.descriptor, 65536)
        if not chunk:
            return None
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        return lines


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs to start: settings, its row, and the file descriptors it inherits.

    sockets are listening sockets, shared the memory of `SharedState`, status the pipe to the
    supervisor; paused: accept no connection until the models are ready or `accept` comes.
    """

    settings: ServerSettings
    row: int
    sockets: tuple[int, ...]
    shared: tuple[int, int, int]
    status: int
    paused: bool = False

    def to_line(self) -> bytes:
        """Return this as a line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "WorkerConfig":
        """Parse what `to_line` wrote."""
        values = json.loads(line)
        limits, metrics, load = values["shared"]
        return cls(
            _settings(values["settings"]),
            values["row"],
            tuple(values["sockets"]),
            (limits, metrics, load),
            values["status"],
            values["paused"],
        )


def _settings(values: Mapping[str, Any]) -> ServerSettings:
    """Return settings from their JSON form, which has lists in the place of tuples."""
    tuples = {field.name for field in fields(ServerSettings) if isinstance(field.default, tuple)}
    given: dict[str, Any] = {
        name: tuple(value) if name in tuples else value for name, value in values.items()
    }
    return ServerSettings(**given)
