"""The console of one server process: its routes, and what it puts around the application."""

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from opengte.serve.auth.authorizer import KeyAuthorizer
from opengte.serve.config.paths import state_folder
from opengte.serve.config.settings import ServerSettings
from opengte.serve.console.account_pages import AccountPages
from opengte.serve.console.accounts import Accounts
from opengte.serve.console.credit_log import CreditLog
from opengte.serve.console.database import open_database
from opengte.serve.console.guard import Guard
from opengte.serve.console.key_pages import KeyPages
from opengte.serve.console.ledger import UNIT, Ledger
from opengte.serve.console.model_pages import ModelPages
from opengte.serve.console.operator_pages import OperatorPages
from opengte.serve.console.rendering import PAGE_HEADERS, base_of
from opengte.serve.console.sessions import Sessions
from opengte.serve.console.use_api import UseApi, openapi_paths
from opengte.serve.console.use_pages import UsePages
from opengte.serve.observability.load_history import LoadHistory
from opengte.serve.observability.metrics import Metrics
from opengte.serve.types import Service

PAGES = ("/models", "/console")


class Console:
    """What `--console` adds to a server."""

    links: Mapping[str, str] = {"Models": "models", "Console": "console"}  # of the start page

    def __init__(
        self,
        settings: ServerSettings,
        service: Service,
        authorizer: KeyAuthorizer,
        metrics: Callable[[], Metrics],
        history: LoadHistory,
    ) -> None:
        """Open the tables; raises InputError or DatabaseError if that is not possible."""
        folder = state_folder(settings.state_dir)
        self.database = open_database(settings.console_database, folder)
        accounts = Accounts(self.database)
        guard = Guard(Sessions(accounts))
        ledger = Ledger(self.database)
        self.credit = CreditLog(
            ledger,
            folder,
            settings.price_of,
            int(settings.credit_block * UNIT),
            settings.currency,
        )
        self.paths = openapi_paths()
        self._parts = (
            ModelPages(settings, service, metrics, history, guard.visitor),
            AccountPages(settings, accounts, ledger, guard),
            KeyPages(settings, accounts, guard),
            UsePages(settings, accounts, ledger, guard),
            UseApi(settings, service, authorizer, ledger),
            OperatorPages(settings, accounts, guard),
        )

    def routes(self) -> list[BaseRoute]:
        """Return all routes."""
        return [*(route for part in self._parts for route in part.routes()), _HOME]

    def close(self) -> None:
        """Book what was charged, and close the tables."""
        self.credit.close()
        self.database.close()

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return the application with `/models` as a page for browsers; clients get JSON there."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"].startswith(PAGES):
                scope["raw_path"] = scope["path"].encode()  # what relative links are relative to
                if scope["path"] == "/models" and _browses(scope):
                    scope["path"] = "/models/"
            await app(scope, receive, send)

        return answer


async def _home(request: Request) -> Response:
    return RedirectResponse(f"{base_of(request)}console/account", 303, PAGE_HEADERS)


_HOME = Route("/console", _home, methods=["GET"], include_in_schema=False)


def _browses(scope: Scope) -> bool:
    accepted = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    return b"text/html" in accepted and scope["method"] in ("GET", "HEAD")
