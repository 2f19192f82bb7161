"""The server as a Ray Serve deployment: Ray's proxies in place of our sockets.

Each replica is one whole server process: models, scheduler, keys, metrics. Ray balances between
replicas and replaces them. From a terminal: `serve run opengte.serve.runtime.ray_app:app
model=minilm`.
"""

from collections.abc import Mapping
from typing import Any

from opengte.errors import InputError, MissingExtraError, NotReadyError
from opengte.serve.auth.keys import KeyRing
from opengte.serve.config.loading import load, read
from opengte.serve.config.paths import keys_folder
from opengte.serve.config.settings import TABLE, Settings

REQUESTS = 512  # that one replica has at once; the rest waits in Ray's proxy
# what Ray's proxy decides instead
_OF_OUR_SOCKETS = ("host", "port", "uds", "workers", "tls_cert", "tls_key", "tls_client_ca")


class Replica:
    """One server of a deployment, as an ASGI application that loads its models at startup."""

    def __init__(self, settings: Settings) -> None:
        """Join the parts."""
        from opengte.serve.runtime.components import Parts
        from opengte.serve.runtime.shared_state import new_common

        self._parts = Parts(settings, new_common(1))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or take the server's life from start to end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._parts.app(scope, receive, send)

    async def check(self) -> None:
        """Run every model once; raise NotReadyError when one does not answer."""
        await self._parts.core.check()

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        await self._parts.start()
        await self._parts.core.ready()
        states = self._parts.core.models()
        if all(one.state == "failed" for one in states):
            reason = "; ".join(f"{one.name}: {one.detail}" for one in states)
            await send({"type": "lifespan.startup.failed", "message": reason})
            raise NotReadyError(reason)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._parts.draining = True
        await self._parts.close(self._parts.settings.drain_timeout)
        await send({"type": "lifespan.shutdown.complete"})


def deployment(settings: Settings, **options: Any) -> Any:
    """Return an application for `ray.serve.run`.

    options are those of `ray.serve.deployment`: num_replicas, ray_actor_options,
    autoscaling_config, ... Ray's proxy listens where Ray says, so that keys are needed unless
    settings.insecure. Raises MissingExtraError and InputError.
    """
    try:
        from ray import serve
    except ImportError:
        raise MissingExtraError("ray", "bulk", "serving with Ray") from None
    _check(settings)

    def build() -> Replica:
        return Replica(settings)

    class Server:
        """What Ray asks beside the requests; the application is its ingress."""

        app: Replica

        async def check_health(self) -> None:
            """Raise when a model does not answer: Ray then replaces the replica."""
            await self.app.check()

    wrapped = serve.ingress(build)(Server)
    given = {"name": "opengte", "max_ongoing_requests": REQUESTS, **options}
    return serve.deployment(**given)(wrapped).bind()


def app(arguments: Mapping[str, str]) -> Any:
    """Return the application of `serve run`; arguments are settings, as in the environment.

    Settings that are not named come from the environment.
    """
    known = {one.name: one for one in TABLE}
    for name in arguments:
        if name not in known:
            raise InputError(f"{name}: there is no such setting; `gte serve --help` lists them")
    return deployment(load({k: read(known[k], v) for k, v in arguments.items()}).settings)


def _check(settings: Settings) -> None:
    for name in _OF_OUR_SOCKETS:
        if getattr(settings, name) != getattr(Settings(), name):
            raise InputError(f"{name}: Ray's proxy listens, not this server; set it there")
    ring = KeyRing(keys_folder(settings), settings.api_key)
    try:
        if not ring.needed and not settings.insecure:
            raise InputError(
                "keys: there are no API keys, and Ray's proxy may be reached by other machines; "
                "make one with `gte keys create NAME`, or allow everyone with insecure"
            )
    finally:
        ring.close()
