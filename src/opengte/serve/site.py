"""The pages in the browser: the start page, the API's documentation, and what they draw.

The pages are files of `pages/`: no data is in them, so they need no key; `/page/state` may.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib import resources

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from opengte import __version__
from opengte.errors import AccessError
from opengte.serve.request import ModelStatus, Service
from opengte.serve.ring import LoadRing

PAGES = {"/": "index.html", "/docs": "docs.html"}
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

Authorize = Callable[[Request], None]


class _File:
    """A file of `pages/`, read once."""

    def __init__(self, name: str) -> None:
        self._body = resources.files("opengte.serve").joinpath("pages", name).read_bytes()
        self._etag = f'"{hashlib.sha256(self._body).hexdigest()[:32]}"'
        self._type = TYPES[name.rpartition(".")[2]]

    def __call__(self, request: Request) -> Response:
        """Answer with the file, or with 304 when the browser has it."""
        headers = {**HEADERS, "etag": self._etag, "cache-control": "no-cache"}
        known = request.headers.get("if-none-match", "")
        if self._etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
            return Response(status_code=304, headers=headers)
        return Response(self._body, headers=headers, media_type=self._type)


def page_routes(
    service: Service,
    ring: LoadRing,
    authorize: Authorize | None = None,
    links: Mapping[str, str] | None = None,
) -> list[BaseRoute]:
    """Return the routes of the pages.

    authorize raises AccessError for a request that must not see the state of the server; links are
    further pages, name -> address.
    """
    ring.watch_queue(lambda: sum(model.queued_tokens for model in service.models()))

    async def state(request: Request) -> Response:
        headers = {**HEADERS, "cache-control": "no-store"}
        try:
            if authorize is not None:
                authorize(request)
        except AccessError as error:
            status = 403 if error.authenticated else 401
            return JSONResponse({"error": str(error)}, status, headers)
        since = request.query_params.get("since", "0")[:12]
        return JSONResponse(
            {
                "version": __version__,
                "workers": ring.workers,
                "links": dict(links or {}),
                "models": [_model(status) for status in service.models()],
                "seconds": ring.seconds(int(since) if re.fullmatch("[0-9]+", since) else 0),
            },
            headers=headers,
        )

    names = [file.name for file in resources.files("opengte.serve").joinpath("pages").iterdir()]
    assets = {f"/assets/{name}": name for name in names if not name.endswith(".html")}
    return [
        *(_static(path, name) for path, name in {**PAGES, **assets}.items()),
        Route("/page/state", state, methods=["GET"], include_in_schema=False),
    ]


def _static(path: str, name: str) -> Route:
    file = _File(name)

    async def answer(request: Request) -> Response:
        return file(request)

    return Route(path, answer, methods=["GET"], include_in_schema=False)


def _model(status: ModelStatus) -> Mapping[str, object]:
    """Return what the page shows of a model; its source may be a path and is left out."""
    card = None
    if status.card is not None:
        card = asdict(replace(status.card, prompts=dict(status.card.prompts)))
        del card["source"]
    return {**asdict(replace(status, card=None)), "card": card}
