"""Routes for operators: `/metrics` and `/admin/reload`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from opengte.errors import AccessError, CapabilityError, OpenGTEError
from opengte.serve.auth.authorizer import KeyAuthorizer
from opengte.serve.config.settings import ServerSettings
from opengte.serve.http.errors import retry_headers, to_failure
from opengte.serve.http.handler import api_key_of
from opengte.serve.observability.metrics import Metrics
from opengte.serve.protocols.base import STATUSES

KeyCheck = Callable[[Request], None]  # raises AccessError


class ServerControl(Protocol):
    """What the routes need of the server process."""

    settings: ServerSettings
    authorizer: KeyAuthorizer
    metrics: Metrics
    reload_everywhere: Callable[[], Awaitable[dict[str, str]]]

    def update_gauges(self) -> None:
        """Bring the gauges up to date."""
        ...


def admin_routes(server: ServerControl) -> list[BaseRoute]:
    """Return the routes of one server process; server is used when a request comes."""

    async def metrics(request: Request) -> Response:
        if server.settings.metrics == "key":
            if refusal := _refusal(require_key(server.authorizer), request):
                return refusal
        server.update_gauges()
        accept = request.headers.get("accept", "")
        page, content_type = await asyncio.to_thread(server.metrics.render, accept)
        return Response(page, media_type=None, headers={"content-type": content_type})

    async def reload(request: Request) -> Response:
        if refusal := _refusal(_require_admin(server.authorizer), request):
            return refusal
        try:
            outcomes = await server.reload_everywhere()
        except CapabilityError as error:
            return _failure(error)
        good = all(outcome in ("reloaded", "asked") for outcome in outcomes.values())
        return JSONResponse({"models": outcomes}, 200 if good else 500)

    routes: list[BaseRoute] = [Route("/admin/reload", reload, methods=["POST"])]
    if server.settings.metrics != "off":
        routes.append(Route("/metrics", metrics, methods=["GET"]))
    return routes


def visible_models(authorizer: KeyAuthorizer) -> Callable[[Request], Callable[[str], bool]]:
    """Return a function that says which models a request may see, or raises AccessError."""
    return lambda request: authorizer.sees(request_api_key(request))


def require_key(authorizer: KeyAuthorizer) -> KeyCheck:
    """Return a check that raises AccessError for a request without a valid key."""

    def check(request: Request) -> None:
        authorizer.find_key(request_api_key(request))

    return check


def _require_admin(authorizer: KeyAuthorizer) -> KeyCheck:
    def check(request: Request) -> None:
        key = authorizer.find_key(request_api_key(request))
        if key is None:
            raise AccessError(
                "reloading over HTTP needs a key made with `gte keys create --admin`; "
                "send the process SIGHUP instead",
                authenticated=True,
            )
        if not key.admin:
            raise AccessError(f"the API key `{key.id}` is not an admin's", authenticated=True)

    return check


def request_api_key(request: Request) -> str | None:
    """Return the API key that a request carries."""
    return api_key_of(dict(request.scope["headers"]))


def _refusal(check: KeyCheck, request: Request) -> Response | None:
    try:
        check(request)
    except AccessError as error:
        return _failure(error, "access_error")
    return None


def _failure(error: OpenGTEError, name: str = "capability_error") -> Response:
    failure = to_failure(error)
    content = {"error": {"message": str(error), "type": name, "param": None, "code": name}}
    return JSONResponse(content, STATUSES[failure.kind], dict(retry_headers(failure)))
