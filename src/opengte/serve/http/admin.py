"""Routes for those who run the server: `/metrics`, and reloading the models."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from opengte.errors import AccessError, LimitError
from opengte.serve.auth.keys import Key
from opengte.serve.http.handler import key_of

if TYPE_CHECKING:
    from opengte.serve.runtime.components import Parts


@dataclass(frozen=True)
class Operation:
    """The routes, and the check that other pages of the same people use."""

    routes: Sequence[BaseRoute]
    allow: Callable[[Request], None]  # raises AccessError where the key is missing or wrong


def operation_routes(parts: "Parts") -> Operation:
    """Return the routes of one server process; parts is used when a request comes."""

    def allow(request: Request) -> None:
        parts.gate.known(secret_of(request))

    async def metrics(request: Request) -> Response:
        if parts.settings.metrics == "key" and (refused := _refusal(allow, request)):
            return refused
        parts.look()
        page, kind = await asyncio.to_thread(parts.metrics.page, request.headers.get("accept", ""))
        return Response(page, media_type=None, headers={"content-type": kind})

    async def reload(request: Request) -> Response:
        def allow_admin(request: Request) -> None:
            key = parts.gate.known(secret_of(request))
            if key is None:
                raise AccessError(
                    "reloading over HTTP needs a key made with `gte keys create --admin`; "
                    "send the process SIGHUP instead",
                    authenticated=True,
                )
            _check_admin(key)

        if refused := _refusal(allow_admin, request):
            return refused
        outcomes = await parts.reload_everywhere()
        good = all(outcome in ("reloaded", "asked") for outcome in outcomes.values())
        return JSONResponse({"models": outcomes}, 200 if good else 500)

    routes: list[BaseRoute] = [Route("/admin/reload", reload, methods=["POST"])]
    if parts.settings.metrics != "off":
        routes.append(Route("/metrics", metrics, methods=["GET"]))
    return Operation(routes, allow)


def secret_of(request: Request) -> str | None:
    """Return the key of a request."""
    return key_of(dict(request.scope["headers"]))


def _check_admin(key: Key) -> None:
    if not key.admin:
        raise AccessError(f"the API key `{key.id}` is not an admin's", authenticated=True)


def _refusal(check: Callable[[Request], None], request: Request) -> Response | None:
    try:
        check(request)
    except AccessError as error:
        status = 403 if error.authenticated else 401
        headers = {} if error.authenticated else {"www-authenticate": "Bearer"}
        return JSONResponse(_error(str(error), "access_error"), status, headers)
    except LimitError as error:
        again = {"retry-after": str(math.ceil(error.retry_after))}
        return JSONResponse(_error(str(error), "rate_limit_exceeded"), 429, again)
    return None


def _error(message: str, kind: str) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}
