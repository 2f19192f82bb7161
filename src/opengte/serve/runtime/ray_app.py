"""The server as a Ray Serve deployment: Ray's proxies listen in the place of our sockets.

Each replica is one whole server process: models, scheduler, keys, metrics. Ray balances between
replicas and replaces them. From a terminal: `serve run opengte.serve.runtime.ray_app:app
model=minilm`.
"""

import platform
from collections.abc import Mapping
from typing import Any

from opengte.errors import CapabilityError, InputError, MissingExtraError, NotReadyError
from opengte.serve.auth.keys import KeyRing
from opengte.serve.config.loading import load_settings, parse_value
from opengte.serve.config.paths import keys_folder
from opengte.serve.config.settings import SETTINGS, ServerSettings

MAX_ONGOING_REQUESTS = 512  # of one replica; further requests wait in Ray's proxy
# settings that Ray's proxy replaces
_LISTENER_SETTINGS = ("host", "port", "uds", "workers", "tls_cert", "tls_key", "tls_client_ca")


class Replica:
    """One server of a deployment, as an ASGI application that loads its models at startup."""

    def __init__(self, settings: ServerSettings, *, key_needed: bool, name: str = "") -> None:
        """Create the components; no model is loaded yet.

        key_needed is whether requests to the deployment need an API key, which each replica must
        then have: it may run on a machine whose state folder is another. name is that of the
        replica, a label of its metrics. Raises InputError if the replica sees no keys.
        """
        from opengte.serve.runtime.components import Components
        from opengte.serve.runtime.shared_state import SharedState

        if key_needed:
            _check_keys(settings)
        self._components = Components(settings, SharedState.create(1))
        if name:
            self._components.metrics.labels = {"replica": name}
        self._components.reload_everywhere = _refuse_reload

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or follow the ASGI lifespan events."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._components.app(scope, receive, send)

    async def check(self) -> None:
        """Run every model once; raise NotReadyError when one does not answer."""
        await self._components.service.check()

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        await self._components.start()
        await self._components.service.ready()
        models = self._components.service.models()
        if all(model.state == "failed" for model in models):
            reason = "; ".join(f"{model.name}: {model.detail}" for model in models)
            await send({"type": "lifespan.startup.failed", "message": reason})
            raise NotReadyError(reason)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._components.draining = True
        await self._components.close(self._components.settings.drain_timeout)
        await send({"type": "lifespan.shutdown.complete"})


def deployment(settings: ServerSettings, **options: Any) -> Any:
    """Return an application for `ray.serve.run`.

    options are those of `ray.serve.deployment`: num_replicas, ray_actor_options,
    autoscaling_config, ... Other machines may reach Ray's proxy, so API keys are required unless
    settings.insecure. Raises MissingExtraError without Ray, InputError for settings that do not
    apply.
    """
    try:
        from ray import serve
    except ImportError:
        raise MissingExtraError("ray", "bulk", "serving with Ray") from None
    key_needed = _check_settings(settings)

    def build() -> Replica:
        name = serve.get_replica_context().replica_id.unique_id
        return Replica(settings, key_needed=key_needed, name=name)

    class Server:
        """What Ray calls besides the requests; the application is its ingress."""

        app: Replica

        async def check_health(self) -> None:
            """Raise when a model does not answer: Ray then replaces the replica."""
            await self.app.check()

    wrapped = serve.ingress(build)(Server)
    given = {"name": "opengte", "max_ongoing_requests": MAX_ONGOING_REQUESTS, **options}
    return serve.deployment(**given)(wrapped).bind()


def app(arguments: Mapping[str, str]) -> Any:
    """Return the application of `serve run`; arguments are settings, as in the environment.

    Settings that are not given come from the environment. Raises InputError for an unknown one.
    """
    known = {setting.name: setting for setting in SETTINGS}
    for name in arguments:
        if name not in known:
            raise InputError(f"{name}: there is no such setting; `gte serve --help` lists them")
    values = {name: parse_value(known[name], text) for name, text in arguments.items()}
    return deployment(load_settings(values).settings)


def _check_settings(settings: ServerSettings) -> bool:
    """Return whether requests need an API key; InputError for settings that do not apply."""
    for name in _LISTENER_SETTINGS:
        if getattr(settings, name) != getattr(ServerSettings(), name):
            raise InputError(f"{name}: Ray's proxy listens, not this server; set it there")
    key_needed = _sees_keys(settings)
    if not key_needed and not settings.insecure:
        raise InputError(
            "keys: there are no API keys, and Ray's proxy may be reached by other machines; "
            "make one with `gte keys create NAME`, or allow everyone with insecure"
        )
    return key_needed


def _check_keys(settings: ServerSettings) -> None:
    if not _sees_keys(settings):
        raise InputError(
            f"keys: this deployment needs API keys, and its replica on {platform.node()} sees none "
            f"in {keys_folder(settings)}; make the keys.db of the deployment readable there "
            "(keys_dir on a shared volume), or set api_key"
        )


def _sees_keys(settings: ServerSettings) -> bool:
    ring = KeyRing(keys_folder(settings), settings.api_key)
    try:
        return ring.key_needed
    finally:
        ring.close()


async def _refuse_reload() -> dict[str, str]:
    raise CapabilityError(
        "a reload would reach one replica of this deployment only; deploy it again with "
        "`serve.run` or `serve deploy`, which replaces all of them"
    )
