"""Is it alive, does it answer, may it be sent requests: what balancers and orchestrators ask."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from opengte.errors import NotReadyError, OpenGTEError
from opengte.serve.http.errors import retry_headers
from opengte.serve.http.response_json import dumps
from opengte.serve.protocols.base import Failure
from opengte.serve.types import Service


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content)


class Probe:
    """A route that anybody may ask, and that is never cached."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self.ask = ask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with what `ask` returns: a status, a content and headers."""
        status, content, headers = await self.ask()
        headers = {**headers, "cache-control": "no-store"}
        await _Json(content, status, headers)(scope, receive, send)


class Probes:
    """The state of a server; probes that come while the models are being run share one run."""

    def __init__(self, service: Service, draining: Callable[[], bool], version: str) -> None:
        self.service = service
        self.draining = draining
        self.version_text = version
        self.running: asyncio.Task[None] | None = None

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        asks = {
            "/health": self.health,
            "/ping": self.health,
            "/healthz": self.alive,
            "/livez": self.alive,
            "/ready": self.ready,
            "/readyz": self.ready,
            "/version": self.version,
        }
        return [Route(path, Probe(ask), methods=["GET"]) for path, ask in asks.items()]

    async def alive(self) -> tuple[int, Any, dict[str, str]]:
        """Return 200: the process answers."""
        return 200, {"status": "ok"}, {}

    async def version(self) -> tuple[int, Any, dict[str, str]]:
        """Return the version."""
        return 200, {"version": self.version_text}, {}

    async def health(self) -> tuple[int, Any, dict[str, str]]:
        """Return 200 when every model that is ready has just answered, else 503 and why."""
        if self.running is None or self.running.done():
            self.running = asyncio.create_task(self.service.check())
        try:
            await asyncio.shield(self.running)
        except OpenGTEError as error:
            return self._refusal(str(error), getattr(error, "retry_after", None))
        return 200, {"status": "ok", "models": self._models()}, {}

    async def ready(self) -> tuple[int, Any, dict[str, str]]:
        """Return 200 when no model is still loading, one is ready, and the server stays."""
        models = self._models()
        states = list(models.values())
        if self.draining():
            return self._refusal("The server is shutting down.", None)
        if "ready" in states and "loading" not in states:
            return 200, {"status": "ready", "models": models}, {}
        waiting = [name for name, state in models.items() if state != "ready"]
        error = NotReadyError(f"Not ready: {', '.join(waiting) or 'no model'}.", retry_after=1.0)
        return self._refusal(str(error), error.retry_after)

    def _models(self) -> dict[str, str]:
        return {status.name: status.state for status in self.service.models()}

    def _refusal(self, why: str, after: float | None) -> tuple[int, Any, dict[str, str]]:
        failure = Failure("not_ready", why, retry_after=after)
        content = {
            "status": "unavailable",
            "error": why,
            "error_type": "Unhealthy",
            "models": self._models(),
        }
        return 503, content, dict(retry_headers(failure))
