"""The way past the router: one look-up for the requests that a server gets most.

Starlette tries one route after the other and passes a request through six layers, which takes a
twentieth of the processor time that a short query takes in all.
"""

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from opengte.serve.http.handler import Handler
from opengte.serve.http.middleware.request_context import Outermost


class Shortcut:
    """An application, but requests to its handlers on paths without parameters skip its layers.

    Only `Outermost` stays around them; where there is other middleware, nothing is skipped.
    """

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._known: dict[tuple[str, str], tuple[Route, Outermost]] = {}
        if len(app.user_middleware) > 1:  # `Outermost` alone
            return
        for route in app.routes:
            if not isinstance(route, Route) or route.param_convertors:
                continue
            if isinstance(handler := route.endpoint, Handler):
                found = route, Outermost(handler, handler.context.policy)
                for method in route.methods or ():
                    self._known.setdefault((method, route.path), found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or what else comes."""
        if scope["type"] == "http" and not scope.get("root_path"):
            known = self._known.get((scope["method"], scope["path"]))
            if known is not None:
                scope["route"], scope["path_params"] = known[0], {}
                await known[1](scope, receive, send)
                return
        await self._app(scope, receive, send)
