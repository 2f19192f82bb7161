"""What is recorded of one HTTP request while it is answered; found in `scope["opengte"]`."""

import time
from dataclasses import dataclass, field

from opengte.serve.types import Priority, Timing
from opengte.types import Role


@dataclass
class RequestRecord:
    """Measurements and properties of one request, for headers, logs, metrics and traces.

    Counts are over all inputs; decoding and encoding are seconds spent on the bodies of request and
    answer; status 499 means that the client disconnected; error is a `protocols.base.ErrorKind`.
    """

    request_id: str
    started: float = field(default_factory=time.monotonic)
    protocol: str | None = None
    operation: str | None = None
    model: str | None = None
    key: str | None = None
    priority: Priority | None = None
    role: Role | None = None
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    failed: int = 0
    cached: int = 0
    missing_instruction: bool = False
    ignored_fields: tuple[str, ...] = ()
    status: int = 0
    error: str | None = None
    timing: Timing = field(default_factory=Timing)
    decoding: float = 0.0
    encoding: float = 0.0

    def age(self) -> float:
        """Return the seconds since the request came in."""
        return time.monotonic() - self.started
