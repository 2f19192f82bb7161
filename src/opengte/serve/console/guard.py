"""What stands before every page of the console: who asks, whether they may, and what went wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from opengte.errors import AccessError, InputError, LimitError, OpenGTEError
from opengte.serve.console.accounts import User
from opengte.serve.console.database import DatabaseError
from opengte.serve.console.rendering import PAGE_HEADERS, base_of, render
from opengte.serve.console.sessions import Session, Sessions, Throttle, read_form

Who = Literal["anyone", "member", "operator"]


@dataclass
class Visit:
    """A request for a page, with its session and, of a change, the fields of its form."""

    request: Request
    session: Session
    csrf: str
    signs_in: bool
    form: dict[str, str] = field(default_factory=dict)

    @property
    def user(self) -> User:
        """The user; only where one is needed."""
        assert self.session.user is not None
        return self.session.user

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page."""
        values = {"user": self.session.user, "csrf": self.csrf, "signs_in": True} | values
        return render(self.request, template, status, **values)

    def message(self, title: str, message: str, status: int = 200) -> Response:
        """Return a page with one message."""
        return self.page("message.html", status, title=title, message=message)

    def to(self, path: str) -> Response:
        """Return a redirect to a page of the console, never to elsewhere."""
        headers = {**PAGE_HEADERS}
        return RedirectResponse(f"{base_of(self.request)}{path}", 303, headers)


Handler = Callable[[Visit], Awaitable[Response]]
_STATUSES: tuple[tuple[type[Exception], int, str], ...] = (
    (InputError, 400, "That did not work"),
    (LimitError, 429, "Too many attempts"),
    (DatabaseError, 503, "Not available now"),
    (OpenGTEError, 500, "That did not work"),
)


class Guard:
    """Makes routes: every change is throttled and checked against forgery."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.throttle = Throttle()

    def get(self, path: str, handler: Handler, who: Who = "member") -> Route:
        """Return the route of a page."""
        return self._route(path, handler, who, "GET")

    def post(self, path: str, handler: Handler, who: Who = "member") -> Route:
        """Return the route of a change."""
        return self._route(path, handler, who, "POST")

    async def visitor(self, request: Request) -> dict[str, Any]:
        """Return what pages for everyone show of who reads them."""
        session = await asyncio.to_thread(self.sessions.read, request)
        return {"user": session.user, "signs_in": True}

    def _route(self, path: str, handler: Handler, who: Who, method: str) -> Route:
        async def answer(request: Request) -> Response:
            return await self._answer(request, handler, who, method)

        return Route(path, answer, methods=[method], include_in_schema=False)

    async def _answer(self, request: Request, handler: Handler, who: Who, method: str) -> Response:
        try:
            session = await asyncio.to_thread(self.sessions.read, request)
        except DatabaseError as error:
            return render(request, "message.html", 503, title="Not available now",
                          message=str(error), signs_in=True)  # fmt: skip
        visit = Visit(request, session, self.sessions.token(session), True)
        try:
            if method == "POST":
                self.throttle.take(request)
                visit.form = await read_form(request)
                self.sessions.check(request, session, visit.form)
            if who != "anyone" and session.user is None:
                return visit.to("console/sign-in")
            if who == "operator" and not visit.user.operator:
                raise AccessError("This page is for operators.", True)
            response = await handler(visit)
        except AccessError as error:
            return visit.message("Not allowed", str(error), 403)
        except OpenGTEError as error:
            _, status, title = next(row for row in _STATUSES if isinstance(error, row[0]))
            return visit.message(title, str(error), status)
        if "set-cookie" not in response.headers and method == "GET":
            self.sessions.write(request, response, session)  # its id is in the page's forms
        return response
