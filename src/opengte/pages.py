"""Pages in a browser: files read once, with a policy that lets the browser run nothing else."""

import hashlib
from collections.abc import Mapping
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

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


def page_files(
    package: str, folder: str, pages: Mapping[str, str], prefix: str = ""
) -> list[BaseRoute]:
    """Return a route for each file of a package's folder.

    pages: HTML file -> its path after the prefix; the others are below `/assets/`.
    """
    files = sorted(resources.files(package).joinpath(folder).iterdir(), key=lambda file: file.name)
    return [
        _route(prefix + pages.get(file.name, f"/assets/{file.name}"), file.name, file.read_bytes())
        for file in files
    ]


def _route(path: str, name: str, body: bytes) -> Route:
    """Return a route that answers with a file, or with 304 where the browser has it."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**HEADERS, "etag": etag, "cache-control": "no-cache"}
    kind = TYPES[name.rpartition(".")[2]]

    async def answer(request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=kind)

    return Route(path, answer, methods=["GET"], include_in_schema=False)
