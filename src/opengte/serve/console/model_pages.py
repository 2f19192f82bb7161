"""The pages `/models` and `/models/NAME`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from opengte.pages import page_files
from opengte.serve.config.settings import ServerSettings
from opengte.serve.console import measurements
from opengte.serve.console.catalog import (
    CatalogEntry,
    catalog,
    find_entry,
    licences,
    selected,
    suites,
)
from opengte.serve.console.facts import all_facts
from opengte.serve.console.rendering import render
from opengte.serve.console.snippets import snippets
from opengte.serve.observability.load_history import LoadHistory
from opengte.serve.observability.metrics import Metrics
from opengte.serve.types import Service

Visitor = Callable[[Request], Awaitable[dict[str, Any]]]  # what a page shows of who reads it


class ModelPages:
    """The catalogue of one server process, as pages that need no key."""

    def __init__(
        self,
        settings: ServerSettings,
        service: Service,
        metrics: Callable[[], Metrics],
        history: LoadHistory,
        visitor: Visitor,
    ) -> None:
        self._settings, self._service, self._metrics = settings, service, metrics
        self._history = history
        self._fidelity = measurements.FidelityReader(settings.models)
        self._visitor = visitor

    def routes(self) -> list[BaseRoute]:
        """Return the routes; a browser's `GET /models` is to be sent to `/models/`."""
        return [
            Route("/models/", self.models, methods=["GET"], include_in_schema=False),
            Route("/models/{name:path}", self.model, methods=["GET"], include_in_schema=False),
            *page_files("opengte.serve.console", "assets", {}),
        ]

    def entries(self) -> list[CatalogEntry]:
        """Return the catalogue as it is now."""
        return catalog(self._service.models(), measurements.speeds(self._metrics()).get)

    async def models(self, request: Request) -> Response:
        """Answer with the list."""
        entries = self.entries()
        query = dict(request.query_params)
        known = suites(entries)
        suite = query.get("sort") if query.get("sort") in known else known[0]
        return render(
            request,
            "models.html",
            entries=selected(entries, query),
            total=len(entries),
            query={**dict.fromkeys(_FIELDS, ""), **query},
            suites=known,
            suite=suite,
            licences=licences(entries),
            **await self._visitor(request),
        )

    async def model(self, request: Request) -> Response:
        """Answer with the page of one model, or 404."""
        entries = self.entries()
        entry = find_entry(entries, request.path_params["name"])
        visitor = await self._visitor(request)
        if entry is None:
            name = request.path_params["name"][:200]
            message = f"There is no model `{name}` here. The catalogue lists what there is."
            return render(request, "message.html", 404, title="No such model", message=message,
                          **visitor)  # fmt: skip
        fidelity = None
        if entry.card is not None:
            fidelity = await asyncio.to_thread(self._fidelity.read, entry.card)
        return render(
            request,
            "model.html",
            entry=entry,
            facts=entry.facts,
            boards=_boards(entry),
            fidelity=fidelity,
            load=measurements.load_of(self._history),
            cost=self._cost(entry),
            currency=self._settings.currency,
            price=self._settings.price_of(entry.name),
            snippets=snippets(entry.kind, entry.name, entry.id or entry.name),
            **visitor,
        )

    def _cost(self, entry: CatalogEntry) -> float | None:
        """Return what a million tokens cost, if the machine's cost and the speed are known."""
        if entry.speed is None or self._settings.hourly_cost is None:
            return None
        a_second = entry.speed.tokens_per_second * self._settings.workers
        return self._settings.hourly_cost / (a_second * 3600) * 1e6


_FIELDS = ("q", "task", "language", "licence", "length", "dimension", "size", "sort", "served")


def _boards(entry: CatalogEntry) -> tuple[list[str], list[tuple[str, bool, list[Any]]]]:
    """Return the suites, and for the model and each rival its figures in them."""
    facts = entry.facts
    if facts is None or not facts.benchmarks:
        return [], []
    names = [each.suite for each in facts.benchmarks]
    everything = all_facts()
    rows = [facts, *(everything[name] for name in facts.rivals if name in everything)]
    return names, [
        (row.title, row.id == facts.id, [row.score(suite) for suite in names])
        for row in rows
        if any(row.score(suite) for suite in names)
    ]
