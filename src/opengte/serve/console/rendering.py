"""Pages from templates: escaped, without inline code, under a content security policy."""

import time
from functools import cache
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from opengte import __version__
from opengte.pages import HEADERS, POLICY

FORMS = POLICY.replace("form-action 'none'", "form-action 'self'")
PAGE_HEADERS = {
    **HEADERS,
    "content-security-policy": FORMS,
    "cache-control": "no-store",
    "referrer-policy": "same-origin",  # without it, browsers send no origin with a form
}


@cache
def environment() -> jinja2.Environment:
    """Return the templates; everything that they print is escaped."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("opengte.serve.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["quantity"] = quantity
    found.filters["moment"] = moment
    found.globals["version"] = __version__
    return found


def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Return a page; links in it are relative, so that a proxy may put a prefix before them."""
    values = {"base": base_of(request), "user": None, "csrf": "", "signs_in": False} | values
    page = environment().get_template(template).render(**values)
    return HTMLResponse(page, status, PAGE_HEADERS)


def base_of(request: Request) -> str:
    """Return the relative address of the server's root, as the browser sees the page."""
    path: str = request.scope["path"]  # a slash at its end may be the router's, or be taken away
    slash = request.scope.get("raw_path", path.encode()).endswith(b"/")
    return "../" * (path.count("/") - 1 + slash - path.endswith("/")) or "./"


def moment(seconds: float | None) -> str:
    """Return a Unix time in UTC, or a dash for None.

    >>> moment(0), moment(None)
    ('1970-01-01 00:00', '–')
    """
    return "–" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def quantity(value: float | None, digits: int = 0) -> str:
    """Return a number with separators, or a dash for None.

    >>> quantity(1234.5, 1), quantity(None)
    ('1,234.5', '–')
    """
    return "–" if value is None else f"{value:,.{digits}f}"
