"""The components of one server process: created from settings, started, reloaded and closed."""

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from opengte.errors import OpenGTEError
from opengte.serve.auth.authorizer import KeyAuthorizer
from opengte.serve.auth.keys import KeyRing
from opengte.serve.auth.rate_limits import RateLimiter
from opengte.serve.auth.usage import UsageLog
from opengte.serve.config.inference import CacheSettings, ModelSettings
from opengte.serve.config.paths import keys_folder, state_folder
from opengte.serve.config.settings import ServerSettings
from opengte.serve.http.admin import admin_routes, visible_models
from opengte.serve.http.app import AppOptions, build_app
from opengte.serve.http.middleware.fast_path import FastPath
from opengte.serve.http.middleware.observe import ObserveMiddleware, ObserveOptions
from opengte.serve.http.pages import page_routes
from opengte.serve.inference.loading import ModelLoader
from opengte.serve.inference.service import InferenceService
from opengte.serve.observability import logs, tracing
from opengte.serve.observability.load_history import LoadHistory
from opengte.serve.observability.metrics import Metrics
from opengte.serve.observability.tracing import Tracer
from opengte.serve.runtime.shared_state import SharedState
from opengte.serve.types import Observer

if TYPE_CHECKING:
    from opengte.serve.console.site import Console


@dataclasses.dataclass(frozen=True)
class ServerExtension:
    """What a caller adds to a server.

    Routes, their paths in the OpenAPI document, links of the start page (name -> address), and what
    to call when the server closes.
    """

    routes: Sequence[BaseRoute]
    paths: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)
    close: Callable[[], None] = lambda: None


ExtensionFactory = Callable[["Components"], ServerExtension]

# response headers that a page of an allowed origin may read
_EXPOSED_HEADERS = (
    *("x-request-id", "server-timing", "retry-after", "retry-after-ms"),
    *(f"x-opengte-{name}" for name in ("model", "fingerprint", "role", "priority", "truncated")),
    *(f"x-opengte-{name}" for name in ("failed", "cached", "ignored-fields")),
    "x-opengte-missing-instruction",
)
_TICK = 1.0  # seconds between updates of the gauges and the usage database


def open_authorizer(settings: ServerSettings, shared: SharedState) -> KeyAuthorizer:
    """Return the authorizer of a server: its keys, rate limits and usage log."""
    return KeyAuthorizer(
        KeyRing(keys_folder(settings), settings.api_key),
        RateLimiter(shared.limits),
        UsageLog(state_folder(settings.state_dir)) if settings.usage else None,
        settings.models,
    )


class Components:
    """The components of one server process; implements `http.admin.ServerControl`."""

    def __init__(
        self,
        settings: ServerSettings,
        shared: SharedState,
        load: ModelLoader | None = None,
        extend: ExtensionFactory | None = None,
    ) -> None:
        """Create and connect the components; nothing heavy happens before `start`."""
        self.settings = settings
        self.draining = False
        self._shared = shared
        self.load_history = LoadHistory(shared.load, shared.row, shared.workers)
        observers: list[Observer] = [self.load_history]
        self.service = InferenceService(
            [_with_threads(model, settings) for model in settings.models],
            cache=_cache(settings),
            observer=_ObserverGroup(observers),
            load=load,
            memory_share=1 / settings.workers,
        )
        self.authorizer = open_authorizer(settings, shared)
        self.tracer: Tracer | None = tracing.open_tracer(settings)
        self._extension = ServerExtension(()) if extend is None else extend(self)
        self.console = self._open_console() if settings.console else None
        self.authorizer.credit = self.console.credit if self.console is not None else None
        routed = build_app(self.service, self.authorizer, self._app_options())
        paths = [getattr(route, "path", "") for route in routed.routes]
        names = [model.name for model in settings.models]
        self.metrics = Metrics(names, [path for path in paths if path], shared.metrics, shared.row)
        observers.append(self.metrics)
        self.app: ASGIApp = ObserveMiddleware(
            FastPath(routed) if self.console is None else self.console.around(FastPath(routed)),
            ObserveOptions(
                self.metrics,
                self.tracer,
                self.load_history.record_request,
                settings.access_log_sample,
                frozenset(names),
                lambda: self.draining,
            ),
        )
        # reloads the models of this process; in a worker, of all workers. {model: outcome}
        self.reload_everywhere: Callable[[], Awaitable[dict[str, str]]] = self.reload
        self._ticking: asyncio.Task[None] | None = None
        self._disk_errors = 0

    async def start(self) -> None:
        """Begin to load the models, and to update the gauges once a second."""
        self.authorizer.restore_quotas()
        self.metrics.increment("opengte_worker_starts_total")
        await self.service.start()
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    async def reload(self) -> dict[str, str]:
        """Load every model again and switch to it; return {model: outcome}.

        A model that cannot be loaded again keeps serving as it was.
        """
        self.authorizer.keys.refresh()
        outcomes: dict[str, str] = {}
        for model in self.settings.models:
            try:
                await self.service.reload(model.name)
                outcomes[model.name] = "reloaded"
                logs.event(logs.INFO, "model reloaded", model=model.name)
            except (OpenGTEError, OSError) as error:
                outcomes[model.name] = f"{type(error).__name__}: {error}"
                logs.event(logs.ERROR, "model not reloaded", model=model.name, error=str(error))
        return outcomes

    async def close(self, seconds: float) -> None:
        """Finish what is queued, store the usage, and close every file."""
        await self.service.drain(seconds)
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
        await asyncio.to_thread(self._close_files)

    def release(self) -> None:
        """Unmap the shared memory; nothing may count any more."""
        self.load_history.close()
        self.metrics.close()
        self._shared.close()

    def _close_files(self) -> None:
        self._extension.close()
        if self.console is not None:
            self.console.close()
        if self.authorizer.usage is not None:
            self.authorizer.usage.close()
        self.authorizer.keys.close()
        if self.tracer is not None:
            self.tracer.close()

    async def _tick(self) -> None:
        while True:
            try:
                self.update_gauges()
                if self.authorizer.usage is not None:
                    await asyncio.to_thread(self.authorizer.usage.flush)
                if self.console is not None:
                    await asyncio.to_thread(self.console.credit.flush)
            except Exception as error:  # one failure must not end all updates
                logs.failure("cannot update the gauges or the usage records", error)
            await asyncio.sleep(_TICK)

    def update_gauges(self) -> None:
        """Bring the gauges of models, process, cache and storage up to date."""
        metrics = self.metrics
        metrics.update_models(self.service.models())
        metrics.update_process()
        cache = self.service.cache_info()
        metrics.set_gauge("opengte_cache_bytes", cache.bytes)
        metrics.set_gauge("opengte_cache_entries", cache.entries)
        usage, keys = self.authorizer.usage, self.authorizer.keys
        if usage is not None:
            metrics.update_storage("usage", usage.working, usage.failures)
        else:
            metrics.update_storage("usage", True, 0)
        metrics.update_storage("keys", keys.working, keys.failures)
        new = cache.disk_errors - self._disk_errors
        self._disk_errors = cache.disk_errors
        metrics.update_storage("cache", new == 0, cache.disk_errors)

    def _open_console(self) -> "Console":
        from opengte.serve.console.site import Console

        return Console(
            self.settings, self.service, self.authorizer, lambda: self.metrics, self.load_history
        )

    def _app_options(self) -> AppOptions:
        settings = self.settings
        middleware = []
        if settings.cors_origin:
            middleware.append(Middleware(CORSMiddleware, **_cors(settings.cors_origin)))
        return AppOptions(
            token_ids=settings.token_ids,  # type: ignore[arg-type]
            tiktoken_files=_path(settings.tiktoken_files),
            strict=settings.strict,
            auto_truncate=settings.auto_truncate,
            tei_validation_status=settings.tei_validation_status,  # type: ignore[arg-type]
            max_body_bytes=settings.max_body_bytes,
            max_inputs=settings.max_inputs,
            interactive_inputs=settings.interactive_inputs,
            timeout=settings.timeout,
            max_concurrent_requests=settings.max_connections,
            root_path=settings.root_path,
            draining=lambda: self.draining,
            extra_routes=[
                *admin_routes(self),
                *page_routes(
                    self.service,
                    self.load_history,
                    visible_models(self.authorizer),
                    {**self._extension.links, **(self.console.links if self.console else {})},
                ),
                *(self.console.routes() if self.console else ()),
                *self._extension.routes,
            ],
            extra_paths={**self._extension.paths, **(self.console.paths if self.console else {})},
            middleware=middleware,
        )


class _ObserverGroup:
    """Passes reports on to several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def batch(self, model: str, texts: int, tokens: int, budget: int, seconds: float) -> None:
        """Report a computed batch."""
        for observer in self._observers:
            observer.batch(model, texts, tokens, budget, seconds)

    def count(self, event: str, model: str, n: int = 1) -> None:
        """Report an event."""
        for observer in self._observers:
            observer.count(event, model, n)


def _with_threads(model: ModelSettings, settings: ServerSettings) -> ModelSettings:
    threads = model.threads
    if threads is None and settings.workers > 1:  # the workers share the processors
        threads = max(1, len(os.sched_getaffinity(0)) // settings.workers)
    return dataclasses.replace(model, threads=threads)


def _cache(settings: ServerSettings) -> CacheSettings | None:
    if settings.cache_memory == 0 and settings.cache_file is None:
        return None
    return CacheSettings(settings.cache_memory, _path(settings.cache_file), settings.cache_disk)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def _cors(origins: Sequence[str]) -> dict[str, Any]:
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["*"],
        "expose_headers": list(_EXPOSED_HEADERS),
        "max_age": 600,
    }
