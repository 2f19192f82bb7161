"""Serves the static files of web pages, under a policy that lets the browser run nothing else.

Files that all pages use are in `static/`.
"""

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
    """Return a route for each file in a folder of a package, and for each shared file.

    pages: HTML file -> its path below the prefix; the other files are below `/assets/`.
    """
    files = [
        *resources.files("opengte").joinpath("static").iterdir(),
        *resources.files(package).joinpath(folder).iterdir(),
    ]
    return [
        _route(prefix + pages.get(file.name, f"/assets/{file.name}"), file.name, file.read_bytes())
        for file in sorted(files, key=lambda file: file.name)
    ]


def _route(path: str, name: str, body: bytes) -> Route:
    """Return a route that answers with a file, or with 304 if the browser has it."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**HEADERS, "etag": etag, "cache-control": "no-cache"}
    content_type = TYPES[name.rpartition(".")[2]]

    async def answer(request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=content_type)

    return Route(path, answer, methods=["GET"], include_in_schema=False)
