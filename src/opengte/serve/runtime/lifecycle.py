"""How a server ends and what it announces: exit statuses, the log's first lines, systemd."""

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from opengte.serve.observability import logs

if TYPE_CHECKING:
    from opengte.serve.runtime.components import Components

# exit statuses: all requests were answered; some were cut off; no model could be loaded
DONE, CUT_OFF, NO_MODEL = 0, 1, 3
WORKER_MODULE = "opengte.serve.runtime.worker"  # what a worker process runs


def announce(
    models: list[dict[str, Any]], address: str, started: float, keys_needed: bool, workers: int
) -> None:
    """Log what is served and where, and tell systemd that the server is ready.

    started is a reading of time.monotonic().
    """
    notify_systemd("READY=1")
    logs.event(
        logs.INFO,
        "serving",
        address=address,
        seconds=round(time.monotonic() - started, 3),
        keys="needed" if keys_needed else "not needed",
        workers=workers,
    )
    for model in models:
        ready = model["state"] == "ready"
        logs.event(logs.INFO if ready else logs.ERROR, "model", **model)


def describe_models(components: "Components") -> list[dict[str, Any]]:
    """Return the log fields of each model; a field without a value is left out."""
    descriptions = []
    for status in components.service.models():
        card = status.card
        fields = {
            "model": status.name,
            "state": status.state,
            "detail": status.detail,
            "engine": card.engine if card else None,
            "precision": card.precision if card else None,
            "threads": card.threads if card else None,
            "batch_tokens": status.max_batch_tokens,
            "queue_tokens": status.max_queue_tokens,
        }
        descriptions.append({name: value for name, value in fields.items() if value is not None})
    return descriptions


def notify_systemd(message: str) -> None:
    """Send a message to systemd (sd_notify), if systemd started this process with a socket."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.connect(path)
        sender.sendall(message.encode())
