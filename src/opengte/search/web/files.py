"""The files of the page: read once, with a policy that lets the browser run nothing else."""

import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

INDEX = "index.html"
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


def page_files(prefix: str) -> list[BaseRoute]:
    """Return a route for each file of `page/`; index.html is at the prefix with a slash."""
    files = resources.files("opengte.search.web").joinpath("page")
    found = []
    for file in sorted(files.iterdir(), key=lambda file: file.name):
        path = "/" if file.name == INDEX else f"/assets/{file.name}"
        found.append(_route(prefix + path, file.read_bytes(), file.name.rpartition(".")[2]))
    return found


def _route(path: str, body: bytes, kind: str) -> BaseRoute:
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**HEADERS, "etag": etag, "cache-control": "no-cache"}

    async def answer(request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=TYPES[kind])

    return Route(path, answer, methods=["GET"], include_in_schema=False)
