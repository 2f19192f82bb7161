"""Health, readiness and version routes, for load balancers and orchestrators."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from opengte.errors import AccessError, NotReadyError, OpenGTEError
from opengte.serve.http.errors import retry_headers, to_failure
from opengte.serve.http.handler import api_key_of
from opengte.serve.http.response_json import dumps
from opengte.serve.protocols.base import STATUSES
from opengte.serve.types import Authorizer, Service

_Answer = tuple[int, Any, dict[str, str]]  # status, content, headers


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content)


class HealthRoute:
    """The ASGI application of a route that needs no key and must not be cached."""

    def __init__(self, check: Callable[[str | None], Any]) -> None:
        """Take an async function from an API key to status, content and headers."""
        self.check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the result of the check."""
        status, content, headers = await self.check(api_key_of(dict(scope["headers"])))
        headers = {**headers, "cache-control": "no-store"}
        await _Json(content, status, headers)(scope, receive, send)


class HealthChecks:
    """Health checks of a server; checks that arrive while the models run share that run.

    They need no key; the names of models are shown to those who may use them.
    """

    def __init__(
        self,
        service: Service,
        authorizer: Authorizer | None,
        draining: Callable[[], bool],
        version: str,
    ) -> None:
        self.service = service
        self.authorizer = authorizer
        self.draining = draining
        self.version_text = version
        self.running: asyncio.Task[None] | None = None

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        checks = {
            "/health": self.health,
            "/ping": self.health,
            "/healthz": self.alive,
            "/livez": self.alive,
            "/ready": self.ready,
            "/readyz": self.ready,
            "/version": self.version,
        }
        return [Route(path, HealthRoute(check), methods=["GET"]) for path, check in checks.items()]

    async def alive(self, key: str | None) -> _Answer:
        """Return 200: the process answers."""
        return 200, {"status": "ok"}, {}

    async def version(self, key: str | None) -> _Answer:
        """Return the version."""
        return 200, {"version": self.version_text}, {}

    async def health(self, key: str | None) -> _Answer:
        """Run every ready model; return 200 if all answered, else 503 with the reason."""
        if self.running is None or self.running.done():
            self.running = asyncio.create_task(self.service.check())
        try:
            await asyncio.shield(self.running)
        except OpenGTEError as error:
            return self._unavailable(str(error), getattr(error, "retry_after", None), key)
        return 200, {"status": "ok", "models": self._models(key)}, {}

    async def ready(self, key: str | None) -> _Answer:
        """Return 200 if a model is ready, none is loading, and the server is not draining."""
        states = [status.state for status in self.service.models()]
        if self.draining():
            return self._unavailable("The server is shutting down.", None, key)
        if "ready" in states and "loading" not in states:
            return 200, {"status": "ready", "models": self._models(key)}, {}
        waiting = [each.name for each in self.service.models() if each.state != "ready"]
        return self._unavailable(f"Not ready: {', '.join(waiting) or 'no model'}.", 1.0, key)

    def _models(self, key: str | None) -> dict[str, str]:
        """Return the state of each model that a key is for."""
        try:
            sees = (lambda model: True) if self.authorizer is None else self.authorizer.sees(key)
        except AccessError:
            return {}
        return {status.name: status.state for status in self.service.models() if sees(status.name)}

    def _unavailable(self, reason: str, retry_after: float | None, key: str | None) -> _Answer:
        models = self._models(key)
        if len(models) < len(self.service.models()):
            reason = "Not ready."  # the reason may name a model
        failure = to_failure(NotReadyError(reason, retry_after))
        content = {
            "status": "unavailable",
            "error": reason,
            "error_type": "Unhealthy",
            "models": models,
        }
        return STATUSES[failure.kind], content, dict(retry_headers(failure))
