"""`gte serve`: check who can reach the server, then run one process or a supervisor of several."""

import ipaddress
import time
from typing import TYPE_CHECKING

from opengte.errors import InputError
from opengte.serve.auth.keys import KeyRing
from opengte.serve.config.paths import keys_folder
from opengte.serve.config.settings import ServerSettings
from opengte.serve.observability import logs
from opengte.serve.runtime.lifecycle import NO_MODEL, WORKER_MODULE, announce, describe_models

if TYPE_CHECKING:
    from opengte.serve.runtime.components import ExtensionFactory


def run_server(
    settings: ServerSettings,
    extend: "ExtensionFactory | None" = None,
    worker_module: str = WORKER_MODULE,
) -> int:
    """Serve until a signal ends it; return the exit status.

    extend adds routes to the server; worker_module is what worker processes run, and must add the
    same ones. Raises InputError for settings that cannot be used.
    """
    started = time.monotonic()
    check_access(settings)
    logs.configure(settings.log_format, settings.log_level)  # type: ignore[arg-type]
    if settings.workers > 1:
        from opengte.serve.runtime.supervisor import Supervisor

        status = Supervisor(settings, worker_module).run()
    else:
        from opengte.serve.runtime.listener import open_listeners
        from opengte.serve.runtime.process import run_process

        sockets, address = open_listeners(settings)
        status = run_process(
            settings,
            sockets,
            lambda components: announce(
                describe_models(components), address, started, components.authorizer.key_needed, 1
            ),
            extend=extend,
        )
    return 1 if status == NO_MODEL else status


def check_access(settings: ServerSettings) -> None:
    """Raise InputError for an address that other machines can reach, if no API key is needed."""
    if settings.insecure or settings.uds is not None or is_loopback(settings.host):
        return
    ring = KeyRing(keys_folder(settings), settings.api_key)
    try:
        if ring.key_needed or settings.tls_client_ca is not None:
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
