"""The pages in the browser: the start page, the API's documentation, and what they draw.

The pages are files of `pages/`: no data is in them, so they need no key; `/page/state` may.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from opengte import __version__
from opengte.errors import AccessError
from opengte.pages import HEADERS, page_files
from opengte.serve.observability.load_history import LoadRing
from opengte.serve.types import ModelStatus, Service

PAGES = {"index.html": "/", "docs.html": "/docs"}
Authorize = Callable[[Request], None]


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

    return [
        *page_files("opengte.serve", "pages", PAGES),
        Route("/page/state", state, methods=["GET"], include_in_schema=False),
    ]


def _model(status: ModelStatus) -> Mapping[str, object]:
    """Return what the page shows of a model; its source may be a path and is left out."""
    card = None
    if status.card is not None:
        card = asdict(replace(status.card, prompts=dict(status.card.prompts)))
        del card["source"]
    return {**asdict(replace(status, card=None)), "card": card}
