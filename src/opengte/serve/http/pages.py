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
    visible: Callable[[Request], Callable[[str], bool]] | None = None,
    links: Mapping[str, str] | None = None,
) -> list[BaseRoute]:
    """Return the routes of the pages.

    visible returns which models a request may see, and raises AccessError for one that may not see
    the state of the server; links are further pages, name -> address.
    """
    history.watch_queue(lambda: sum(model.queued_tokens for model in service.models()))

    async def state(request: Request) -> Response:
        headers = {**HEADERS, "cache-control": "no-store"}
        try:
            sees = _everything if visible is None else visible(request)
        except AccessError as error:
            status = STATUSES[to_failure(error).kind]
            return JSONResponse({"error": str(error)}, status, headers)
        since = request.query_params.get("since", "0")[:12]
        return JSONResponse(
            {
                "version": __version__,
                "workers": history.workers,
                "links": dict(links or {}),
                "models": [_model(each) for each in service.models() if sees(each.name)],
                "seconds": history.seconds(int(since) if re.fullmatch("[0-9]+", since) else 0),
            },
            headers=headers,
        )

    return [
        *page_files("opengte.serve", "pages", PAGES),
        Route("/page/state", state, methods=["GET"], include_in_schema=False),
    ]


def _everything(model: str) -> bool:
    return True


def _model(status: ModelStatus) -> Mapping[str, object]:
    """Return what the page shows of a model, without its source, which may be a private path."""
    card = None
    if status.card is not None:
        card = asdict(replace(status.card, prompts=dict(status.card.prompts)))
        del card["source"]
    return {**asdict(replace(status, card=None)), "card": card}
