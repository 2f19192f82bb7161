"""Finds the routes of paths as clients and proxies write them."""

from collections.abc import Iterator, Sequence

from starlette.routing import BaseRoute, Match, Router
from starlette.types import Receive, Scope, Send


class LenientRouter(Router):
    """Answers a path with a slash too many, or with a prefix that a proxy left in it.

    Such a path is never redirected: a redirect would have to name the address, which only the proxy
    knows, and clients follow it without their body or key, or not at all. A path that has a route
    of its own, as it is, goes there.
    """

    def __init__(self, routes: Sequence[BaseRoute], root_path: str = "") -> None:
        super().__init__(routes, redirect_slashes=False)
        self._prefix = f"/{root_path.strip('/')}/"

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to its route."""
        if scope["type"] == "http":
            root = scope.get("root_path", "")
            path = scope["path"].removeprefix(root)
            if (path.endswith("/") and path != "/") or self._is_prefixed(path):
                scope["path"] = root + self._known(path, scope)
        await super().app(scope, receive, send)

    def _known(self, path: str, scope: Scope) -> str:
        """Return the first spelling of a path that has a route, or the path if none has."""
        for spelling in self._spellings(path):
            tried = {**scope, "path": spelling, "root_path": ""}
            for route in self.routes:
                match, found = route.matches(tried)
                values = found.get("path_params", {}).values()
                if match != Match.NONE and all(str(value).strip("/") for value in values):
                    return spelling
        return path

    def _spellings(self, path: str) -> Iterator[str]:
        yield path
        yield path.rstrip("/") or "/"
        if self._is_prefixed(path):
            inner = path[len(self._prefix) - 1 :] or "/"
            yield inner
            yield inner.rstrip("/") or "/"

    def _is_prefixed(self, path: str) -> bool:
        return self._prefix != "//" and f"{path}/".startswith(self._prefix)
