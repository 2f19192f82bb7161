"""The console of one server process: its routes, and what it puts around the application."""

from collections.abc import Callable, Mapping

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from opengte.serve.config.settings import ServerSettings
from opengte.serve.console.model_pages import ModelPages
from opengte.serve.observability.load_history import LoadHistory
from opengte.serve.observability.metrics import Metrics
from opengte.serve.types import Service

PAGES = ("/models", "/console")


class Console:
    """What `--console` adds to a server."""

    links: Mapping[str, str] = {"Models": "models"}  # of the start page

    def __init__(
        self,
        settings: ServerSettings,
        service: Service,
        metrics: Callable[[], Metrics],
        history: LoadHistory,
    ) -> None:
        self._models = ModelPages(settings, service, metrics, history)

    def routes(self) -> list[BaseRoute]:
        """Return all routes."""
        return self._models.routes()

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return the application with `/models` as a page for browsers; clients get JSON there."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"].startswith(PAGES):
                scope["raw_path"] = scope["path"].encode()  # what relative links are relative to
                if scope["path"] == "/models" and _browses(scope):
                    scope["path"] = "/models/"
            await app(scope, receive, send)

        return answer


def _browses(scope: Scope) -> bool:
    accepted = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    return b"text/html" in accepted and scope["method"] in ("GET", "HEAD")
