"""Knowledge bases in a server, for `gte serve --kb` and `gte ui`."""

import os
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from opengte.errors import AccessError, InputError, MissingExtraError

if TYPE_CHECKING:
    from starlette.requests import Request

    from opengte.encoder import Encoder, LateInteraction, Reranker
    from opengte.search.model_identity import ModelIdentity
    from opengte.search.web.app import Authorizer, SearchSite
    from opengte.search.web.service import SearchService
    from opengte.serve.config.settings import ServerSettings
    from opengte.serve.runtime.components import Components, ServerExtension

PREFIX = "/kb"
_NAME = re.compile(r"[\w.-]+")
_LOOPBACK = re.compile(r"(?i)(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?")


def parse_kb_argument(text: str) -> tuple[str, str]:
    """Return the name and the place of `NAME=KB` or `KB`."""
    name, equals, place = text.partition("=")
    if equals and _NAME.fullmatch(name) and place:
        return name, place
    return os.path.basename(text.rstrip("/")) or "kb", text


def open_services(given: Sequence[str], settings: "ServerSettings") -> "list[SearchService]":
    """Open knowledge bases; InputError for what is none."""
    require_packages()
    from opengte.search.filters import parse_conditions
    from opengte.search.kb import KnowledgeBase
    from opengte.search.web.service import SearchService

    where = parse_conditions(settings.where)
    reranker = _reranker(settings) if settings.reranker is not None else None
    found = []
    for name, place in map(parse_kb_argument, given):
        kb = KnowledgeBase.open(place, load=_encoder(settings))
        found.append(SearchService(name, kb, where, reranker))
    return found


def extend(components: "Components") -> "ServerExtension":
    """Return the routes of the knowledge bases that the settings name."""
    from opengte.search.web import openapi
    from opengte.search.web.app import SearchSite
    from opengte.serve.runtime.components import ServerExtension

    links = {"Start": "../", "Search": "./", "API": "../docs"}
    site = SearchSite(
        open_services(components.settings.kb, components.settings),
        key_authorizer(components),
        links,
    )
    site.warm()
    return ServerExtension(
        site.routes(PREFIX), openapi.paths(PREFIX), {"Search": f"{PREFIX[1:]}/"}, site.close
    )


def key_authorizer(components: "Components") -> "Authorizer":
    """Return the authorizer of API keys: each key sees the documents that match its conditions."""
    from opengte.search.web.app import Grant
    from opengte.serve.auth.authorizer import KeyCaller
    from opengte.serve.http.admin import request_api_key

    authorizer = components.authorizer

    def admit(request: "Request", name: str) -> Grant:
        if not authorizer.key_needed and _is_private(components.settings):
            check_host(request)
        caller = authorizer.authenticate(request_api_key(request), name)
        if (record := request.scope.get("opengte")) is not None:
            record.key = caller.key

        def charge(texts: int, tokens: int) -> None:
            authorizer.reserve(caller, name, tokens)
            authorizer.record(caller, name, tokens, texts)

        key = caller.api_key if isinstance(caller, KeyCaller) else None
        return Grant(_where(key) if key is not None else None, charge)

    return admit


def _where(key: Any) -> Any:
    """Return the filter of a key; a key whose conditions cannot be read sees nothing."""
    from opengte.search.filters import parse_conditions

    try:
        return parse_conditions(key.where)
    except InputError:
        raise AccessError(
            f"the API key `{key.id}` has conditions that cannot be read; make another one",
            authenticated=True,
        ) from None


def loopback_site(site_of: "Callable[[Authorizer], SearchSite]") -> "SearchSite":
    """Return a site that serves everything, to requests from this machine only."""
    from opengte.search.web.app import Grant

    def admit(request: "Request", name: str) -> Grant:
        check_host(request)
        return Grant()

    return site_of(admit)


def check_host(request: "Request") -> None:
    """Raise AccessError for a Host header that is not loopback: protects against DNS rebinding.

    A page whose name points to this machine could read the answers, but its Host header shows it.
    """
    host = request.headers.get("host", "")
    if not _LOOPBACK.fullmatch(host):
        raise AccessError(
            f"this server answers as localhost, and was asked as {host!r:.100}; to answer under "
            "other names, make API keys with `gte keys create`, or start with --insecure",
            authenticated=True,
        )


def _is_private(settings: "ServerSettings") -> bool:
    from opengte.serve.runtime.main import is_loopback

    return not settings.insecure and settings.uds is None and is_loopback(settings.host)


def _encoder(settings: "ServerSettings") -> "Callable[[ModelIdentity], Encoder]":
    def load(identity: "ModelIdentity") -> "Encoder":
        import opengte

        return opengte.Encoder.load(
            identity.model,
            precision=identity.precision,
            max_length=identity.max_length,
            **_running(settings),
        )

    return load


def _reranker(settings: "ServerSettings") -> "Callable[[], Reranker | LateInteraction]":
    def load() -> "Reranker | LateInteraction":
        from opengte.encoder import load_scorer

        assert settings.reranker is not None
        return load_scorer(settings.reranker, **_running(settings))

    return load


def _running(settings: "ServerSettings") -> dict[str, Any]:
    """Return how models are run; worker processes share the processors."""
    threads = settings.threads
    if threads is None and settings.workers > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // settings.workers)
    return {
        "engine": settings.engine,
        "threads": threads,
        "device": settings.device,
        "offline": settings.offline or None,
    }


def require_packages() -> None:
    """Raise MissingExtraError where a package is missing, with the extra that brings it."""
    for package, extra in (("lancedb", "search"), ("starlette", "serve"), ("httptools", "serve")):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra, "A search page")
