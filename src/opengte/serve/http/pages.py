"""The pages in the browser: the start page, the API's documentation, and the state they show.

The files of the pages hold no data, so they need no key; `/page/state` may need one.
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
from opengte.serve.http.errors import to_failure
from opengte.serve.observability.load_history import LoadHistory
from opengte.serve.protocols.base import STATUSES
from opengte.serve.types import ModelStatus, Service

PAGES = {"index.html": "/", "docs.html": "/docs"}


def page_routes(
    service: Service,
    history: LoadHistory,
    check_key: Callable[[Request], None] | None = None,
    links: Mapping[str, str] | None = None,
) -> list[BaseRoute]:
    """Return the routes of the pages.

    check_key raises AccessError for a request that must not see the state of the server; links are
    further pages, name -> address.
    """
    history.watch_queue(lambda: sum(model.queued_tokens for model in service.models()))

    async def state(request: Request) -> Response:
        headers = {**HEADERS, "cache-control": "no-store"}
        try:
            if check_key is not None:
                check_key(request)
        except AccessError as error:
            status = STATUSES[to_failure(error).kind]
            return JSONResponse({"error": str(error)}, status, headers)
        since = request.query_params.get("since", "0")[:12]
        return JSONResponse(
            {
                "version": __version__,
                "workers": history.workers,
                "links": dict(links or {}),
                "models": [_model(status) for status in service.models()],
                "seconds": history.seconds(int(since) if re.fullmatch("[0-9]+", since) else 0),
            },
            headers=headers,
        )

    return [
        *page_files("opengte.serve", "pages", PAGES),
        Route("/page/state", state, methods=["GET"], include_in_schema=False),
    ]


def _model(status: ModelStatus) -> Mapping[str, object]:
    """Return what the page shows of a model, without its source, which may be a private path."""
    card = None
    if status.card is not None:
        card = asdict(replace(status.card, prompts=dict(status.card.prompts)))
        del card["source"]
    return {**asdict(replace(status, card=None)), "card": card}
