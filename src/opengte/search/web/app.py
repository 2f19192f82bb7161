"""HTTP routes of the search page: authorization, request limits, errors.

Queries run in a few threads. Further requests wait, up to a limit, and are dropped if the client
disconnects, as happens while a user types.
"""

import asyncio
import json
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from opengte import __version__
from opengte.errors import (
    AccessError,
    InputError,
    LimitError,
    NotFoundError,
    OpenGTEError,
    OverloadedError,
)
from opengte.pages import HEADERS, page_files
from opengte.search.filters import Filter
from opengte.search.web import schemas, service
from opengte.search.web.service import SearchService

log = logging.getLogger("opengte.search.web")

BODY = 2**20  # bytes of a request
WAITING = 64  # requests that may wait for a thread
CLIENT_WENT = 499


def _nothing(texts: int, tokens: int) -> None:
    """Charge nothing."""


@dataclass(frozen=True)
class Grant:
    """What an authorized request may see, and how it is charged.

    charge is called with the texts and tokens of a query before it is computed; it may raise
    LimitError.
    """

    where: Filter | None = None
    charge: Callable[[int, int], None] = _nothing


# authorizes a request for the knowledge base of a name; raises AccessError or LimitError
Authorizer = Callable[[Request, str], Grant]


class SearchSite:
    """The routes of knowledge bases, the first of which is meant where a request names none."""

    def __init__(
        self,
        desks: Sequence[SearchService],
        guard: Authorizer,
        links: Mapping[str, str] | None = None,
    ) -> None:
        """Take what there is to search, and other pages (name -> address) that the page links to.

        InputError where two knowledge bases have the same name.
        """
        self.links = dict(links or {})
        self.desks = service.services_by_name(desks)
        self.guard = guard
        self._threads = ThreadPoolExecutor(
            max(2, min(4, os.cpu_count() or 1)), thread_name_prefix="opengte-kb"
        )
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="opengte-map")
        self._waiting = 0

    def routes(self, prefix: str = "") -> list[BaseRoute]:
        """Return the routes; the page is at the prefix with a slash."""
        ways: dict[str, tuple[str, Callable[[Request], Any]]] = {
            "status": ("GET", self._status),
            "search": ("POST", self._search),
            "document": ("POST", self._document),
            "near": ("POST", self._near),
            "facets": ("POST", self._facets),
            "problems": ("POST", self._problems),
            "map": ("POST", self._map),
        }
        found: list[BaseRoute] = [
            Route(f"{prefix}/{name}", _answering(work), methods=[method])
            for name, (method, work) in ways.items()
        ]
        found += page_files("opengte.search.web", "page", {"index.html": "/"}, prefix)
        if prefix:
            found.append(Route(prefix, _to_page, methods=["GET"]))
        return found

    def warm(self) -> None:
        """Load the models in the background; what fails is said again when it is needed."""
        for one in self.desks.values():
            self._threads.submit(_warm, one)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._drawing.shutdown(wait=False, cancel_futures=True)

    # --- routes ----------------------------------------------------------------------------------

    async def _status(self, request: Request) -> Any:
        found, refusals = [], []
        for one in self.desks.values():
            try:
                visitor = self.guard(request, one.name)
            except AccessError as error:  # of a key that may see others
                refusals.append(error)
                continue
            found.append(await self._computed(request, one.about, visitor.where))
        if refusals and not found:
            raise refusals[0]
        return schemas.StatusResponse(__version__, found, self.links)

    async def _search(self, request: Request) -> Any:
        wanted = schemas.decode_request(schemas.SearchRequest, await _body(request))
        one, visitor = self._asked(request, wanted.kb)

        def work() -> Any:
            visitor.charge(1, one.tokens(wanted.query))
            return one.search(wanted, visitor.where)

        return await self._computed(request, work)

    async def _document(self, request: Request) -> Any:
        wanted = schemas.decode_request(schemas.DocumentRequest, await _body(request))
        one, visitor = self._asked(request, wanted.kb)
        return await self._computed(request, one.document, wanted, visitor.where)

    async def _near(self, request: Request) -> Any:
        wanted = schemas.decode_request(schemas.NearRequest, await _body(request))
        one, visitor = self._asked(request, wanted.kb)
        return await self._computed(request, one.near, wanted, visitor.where)

    async def _facets(self, request: Request) -> Any:
        wanted = schemas.decode_request(schemas.FilterRequest, await _body(request))
        one, visitor = self._asked(request, wanted.kb)
        return await self._computed(request, one.facets, wanted, visitor.where)

    async def _problems(self, request: Request) -> Any:
        wanted = schemas.decode_request(schemas.ProblemsRequest, await _body(request))
        one, visitor = self._asked(request, wanted.kb)
        return await self._computed(request, one.problems, visitor.where)

    async def _map(self, request: Request) -> Any:
        wanted = schemas.decode_request(schemas.FilterRequest, await _body(request))
        one, visitor = self._asked(request, wanted.kb)
        return await self._computed(request, one.map, wanted, visitor.where, threads=self._drawing)

    # --- parts -----------------------------------------------------------------------------------

    def _asked(self, request: Request, name: str | None) -> tuple[SearchService, Grant]:
        """Return the knowledge base that is meant, and who asks.

        One that a key may not see is refused like one that is not there.
        """
        chosen = name if name is not None else next(iter(self.desks))
        visitor = self.guard(request, chosen)
        if chosen not in self.desks:
            raise NotFoundError(f"there is no knowledge base {chosen!r:.200}; see /status")
        return self.desks[chosen], visitor

    async def _computed(
        self,
        request: Request,
        work: Callable[..., Any],
        *values: Any,
        threads: ThreadPoolExecutor | None = None,
    ) -> Any:
        """Compute in a thread; drop what nobody waits for."""
        if self._waiting >= WAITING:
            raise OverloadedError(
                f"{WAITING} questions wait already; try again in a second", retry_after=1.0
            )
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            future = loop.run_in_executor(threads or self._threads, work, *values)
            while True:
                done, _ = await asyncio.wait([future], timeout=0.2)
                if done:
                    return future.result()
                if await request.is_disconnected():
                    future.cancel()  # unless it runs already
                    raise ClientDisconnect
        finally:
            self._waiting -= 1


def build_app(site: SearchSite) -> Starlette:
    """Return an application of its own, with the page at `/`."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        site.close()

    def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _refused(error.status_code, "not_found", f"{request.url.path}: {error.detail}")

    return Starlette(
        routes=site.routes(), exception_handlers={HTTPException: no_route}, lifespan=lifespan
    )


def _warm(one: SearchService) -> None:
    try:
        one.warm()
    except Exception as error:
        log.error("cannot load the model of %r: %s", one.name, error)


async def _to_page(request: Request) -> Response:
    return RedirectResponse(request.url.path.rpartition("/")[2] + "/", 308, HEADERS)


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY:
            raise InputError(f"the body has more than {BODY} bytes")
        parts.append(part)
    return b"".join(parts)


def _answering(work: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """Return a route that answers with JSON, in failure too."""

    async def answer(request: Request) -> Response:
        try:
            return _json(await work(request))
        except ClientDisconnect:
            return Response(status_code=CLIENT_WENT)
        except Exception as error:
            return _failure(error)

    return answer


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # as ASCII: file names may hold bytes that are no UTF-8, which JSON can only escape
    body = json.dumps(msgspec.to_builtins(content), allow_nan=False).encode("ascii")
    kept = {**HEADERS, "cache-control": "no-store", **(headers or {})}
    return Response(body, status, kept, media_type="application/json")


KINDS: tuple[tuple[type[Exception], int, str], ...] = (
    (InputError, 400, "invalid_request_error"),
    (NotFoundError, 404, "not_found"),
    (LimitError, 429, "rate_limit_exceeded"),
    (OverloadedError, 503, "overloaded"),
)


def _failure(error: Exception) -> Response:
    if isinstance(error, AccessError):
        status = 403 if error.authenticated else 401
        headers = {} if error.authenticated else {"www-authenticate": "Bearer"}
        return _refused(status, "access_error", str(error), headers)
    for kind, status, name in KINDS:
        if isinstance(error, kind):
            return _refused(status, name, str(error), _again(error))
    log.error("request failed: %s", type(error).__name__, exc_info=error)
    # what OpenGTE says of itself names no text of a document or a question
    said = str(error) if isinstance(error, OpenGTEError) else "The server failed; see its log."
    return _refused(500, "server_error", said)


def _again(error: Exception) -> dict[str, str]:
    after = getattr(error, "retry_after", None)
    return {} if after is None else {"retry-after": str(math.ceil(after))}


def _refused(
    status: int, kind: str, message: str, headers: dict[str, str] | None = None
) -> Response:
    content = schemas.ErrorResponse(schemas.SearchErrorDetail(message, kind, None, kind))
    return _json(content, status, headers)
