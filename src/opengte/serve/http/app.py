"""The server as an ASGI application: the routes of all protocols, health checks, middleware."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from opengte import __version__
from opengte.serve.http.errors import to_response
from opengte.serve.http.handler import Handler, HandlerContext
from opengte.serve.http.health import HealthChecks
from opengte.serve.http.lenient_router import LenientRouter
from opengte.serve.http.middleware.request_context import RequestContextMiddleware
from opengte.serve.http.openapi import openapi_document
from opengte.serve.http.response_json import dumps
from opengte.serve.http.routing import endpoints, protocol_of
from opengte.serve.protocols.base import ErrorKind, ProtocolPolicy, RequestFailure, TokenIds
from opengte.serve.protocols.token_ids import Vocabularies, read_vocabularies
from opengte.serve.types import Authorizer, Service


@dataclass(frozen=True)
class AppOptions:
    """How requests are read and answered.

    token_ids says what token ids on the OpenAI route are (see `protocols.token_ids`); auto_truncate
    whether over-long inputs are truncated by default; strict refuses unknown fields, which are
    otherwise reported. An embedding request of more than interactive_inputs inputs has priority
    bulk by default. timeout is the longest that a request may take, in seconds; draining returns
    whether the server is shutting down. root_path is a prefix that a proxy may leave in all paths.
    max_concurrent_requests is only reported in `/info`. extra_routes come after the server's own,
    extra_paths are their part of the OpenAPI document;
    middleware is around all routes, the first one outermost.
    """

    token_ids: TokenIds = "auto"
    tiktoken_files: Path | None = None
    strict: bool = False
    auto_truncate: bool = True
    tei_validation_status: Literal[422, 413] = 422
    max_body_bytes: int = 32 << 20
    max_inputs: int = 65_536
    interactive_inputs: int = 16
    timeout: float | None = None
    root_path: str = ""
    max_concurrent_requests: int = 1024
    draining: Callable[[], bool] = lambda: False
    extra_routes: Sequence[BaseRoute] = ()
    extra_paths: Mapping[str, Any] = field(default_factory=dict)
    middleware: Sequence[Middleware] = ()


def build_app(service: Service, authorizer: Authorizer | None, options: AppOptions) -> Starlette:
    """Return the application; no key is needed without authorizer.

    Raises InputError if the vocabularies cannot be read.
    """
    policy = ProtocolPolicy(
        auto_truncate=options.auto_truncate,
        token_ids=options.token_ids,
        vocabularies=read_vocabularies(options.tiktoken_files)
        if options.tiktoken_files is not None
        else Vocabularies(),
        tei_validation_status=options.tei_validation_status,
        max_inputs=options.max_inputs,
        max_concurrent_requests=options.max_concurrent_requests,
        max_body_bytes=options.max_body_bytes,
        version=__version__,
    )
    context = HandlerContext(
        service, authorizer, policy, options.strict, options.timeout, options.interactive_inputs
    )
    routes: list[BaseRoute] = [
        Route(endpoint.path, Handler(endpoint, context), methods=[endpoint.method])
        for endpoint in endpoints()
    ]
    routes += HealthChecks(service, authorizer, options.draining, __version__).routes()
    routes.append(
        Route(
            "/openapi.json",
            _OpenApiDocument(authorizer is not None, policy, options.extra_paths),
            methods=["GET"],
        )
    )
    routes += options.extra_routes
    app = Starlette(
        middleware=[Middleware(RequestContextMiddleware, policy=policy), *options.middleware],
        exception_handlers={HTTPException: _no_such_route(policy)},
    )
    app.router = LenientRouter(routes, options.root_path)
    return app


class _OpenApiDocument:
    """The route of the OpenAPI document, which is created by the first request for it."""

    def __init__(self, keys: bool, policy: ProtocolPolicy, extra_paths: Mapping[str, Any]) -> None:
        self.keys = keys
        self.policy = policy
        self.extra_paths = extra_paths
        self.body: bytes | None = None

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        """Answer with the document."""
        if self.body is None:
            self.body = dumps(openapi_document(self.keys, self.policy, self.extra_paths))
        await Response(self.body, media_type="application/json")(scope, receive, send)


def _no_such_route(policy: ProtocolPolicy) -> Callable[[Request, Exception], Response]:
    """Return the handler for paths, and methods of paths, that do not exist."""

    def respond(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, method = request.url.path, request.method
        allowed = _allowed(request)
        headers = {"allow": ", ".join(allowed)} if allowed else {}
        if allowed and method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        kind: ErrorKind = "method" if allowed else "not_found"
        others = [name for name in allowed if name != "OPTIONS"]
        message = (
            f"{path} does not take {method}; expected {' or '.join(others)}."
            if allowed
            else f"There is no {path} here. GET /openapi.json lists the routes."
        )
        if error.status_code not in (404, 405):
            kind, message = "invalid", str(error.detail)
        request.scope["opengte"].error = kind
        status, content, more = to_response(
            RequestFailure(kind, message), protocol_of(path), policy
        )
        return Response(dumps(content), status, headers | dict(more), media_type="application/json")

    return respond


def _allowed(request: Request) -> list[str]:
    """Return the methods of all routes that match the path."""
    methods: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match != Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    return sorted(methods | {"OPTIONS"}) if methods else []
