"""Settings to a server: the parts of one process, joined."""

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from opengte.errors import OpenGTEError
from opengte.serve.auth import authorizer
from opengte.serve.auth.authorizer import KeyGate
from opengte.serve.auth.keys import KeyRing
from opengte.serve.auth.rate_limits import LimitTable
from opengte.serve.auth.usage import UsageLog
from opengte.serve.config.inference import CacheSettings, ModelSettings
from opengte.serve.config.paths import keys_folder, state_folder
from opengte.serve.config.settings import Settings
from opengte.serve.http.admin import operation_routes
from opengte.serve.http.app import AppOptions, build_app
from opengte.serve.http.middleware.fast_path import Shortcut
from opengte.serve.http.middleware.observe import App, Observation, ObserveRequests
from opengte.serve.http.pages import page_routes
from opengte.serve.inference.service import InferenceService
from opengte.serve.observability import logs, tracing
from opengte.serve.observability.load_history import LoadRing
from opengte.serve.observability.metrics import Metrics
from opengte.serve.observability.tracing import Tracer
from opengte.serve.runtime.shared_state import Common
from opengte.serve.types import Observer

Load = Callable[[ModelSettings], Any]


@dataclasses.dataclass(frozen=True)
class Extension:
    """What a caller adds to a server: routes, their paths in the OpenAPI document, links of the
    start page (name -> address), and what ends with the server."""

    routes: Sequence[BaseRoute]
    paths: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)
    close: Callable[[], None] = lambda: None


Extend = Callable[["Parts"], Extension]

# headers that a page of an allowed origin may read
_EXPOSED = (
    *("x-request-id", "server-timing", "retry-after", "retry-after-ms"),
    *(f"x-opengte-{name}" for name in ("model", "fingerprint", "role", "priority", "truncated")),
    *(f"x-opengte-{name}" for name in ("failed", "cached", "ignored-fields")),
    "x-opengte-missing-instruction",
)
_TICK = 1.0  # seconds between looks at the models, the process and the disk


def open_gate(settings: Settings, common: Common) -> KeyGate:
    """Return the gate that the settings ask for."""
    return KeyGate(
        KeyRing(keys_folder(settings), settings.api_key),
        LimitTable(common.limits),
        UsageLog(state_folder(settings.state_dir)) if settings.usage else None,
        {alias: model.name for model in settings.models for alias in model.aliases},
    )


class Parts:
    """The parts of one server process, and what happens to all of them together."""

    def __init__(
        self,
        settings: Settings,
        common: Common,
        load: Load | None = None,
        extend: Extend | None = None,
    ) -> None:
        """Join the parts; nothing heavy happens before `start`."""
        self.settings = settings
        self.draining = False
        self._common = common
        self.ring = LoadRing(common.load, common.row, common.workers)
        observers: list[Observer] = [self.ring]
        self.core = InferenceService(
            [_with_threads(model, settings) for model in settings.models],
            cache=_cache(settings),
            observer=_Tee(observers),
            load=load,
            memory_share=1 / settings.workers,
        )
        self.gate = open_gate(settings, common)
        self.tracer: Tracer | None = tracing.open_tracer(settings)
        self._extension = Extension(()) if extend is None else extend(self)
        inner = build_app(self.core, self.gate, self._app_options())
        paths = [getattr(route, "path", "") for route in inner.routes]
        names = [model.name for model in settings.models]
        self.metrics = Metrics(names, [path for path in paths if path], common.board, common.row)
        observers.append(self.metrics)
        self.inner: Starlette = inner
        self.app: App = ObserveRequests(
            Shortcut(inner),
            Observation(
                self.metrics,
                self.tracer,
                self.ring.request,
                settings.access_log_sample,
                frozenset(names),
                lambda: self.draining,
            ),
        )
        # reloads the models of all processes, where there are others; {model: what came of it}
        self.reload_everywhere: Callable[[], Awaitable[dict[str, str]]] = self.reload
        self._ticking: asyncio.Task[None] | None = None
        self._disk_errors = 0

    async def start(self) -> None:
        """Begin to load the models, and to look at everything each second."""
        authorizer.seed(self.gate)
        self.metrics.add("opengte_worker_starts_total")
        await self.core.start()
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    async def reload(self) -> dict[str, str]:
        """Load every model again beside the old one and exchange them; return what came of each."""
        self.gate.ring.refresh()
        outcomes: dict[str, str] = {}
        for model in self.settings.models:
            try:
                await self.core.reload(model.name)
                outcomes[model.name] = "reloaded"
                logs.event(logs.INFO, "model reloaded", model=model.name)
            except (OpenGTEError, OSError) as error:  # the old one goes on
                outcomes[model.name] = f"{type(error).__name__}: {error}"
                logs.event(logs.ERROR, "model not reloaded", model=model.name, error=str(error))
        return outcomes

    async def close(self, seconds: float) -> None:
        """Finish what is queued, write down what was used, and let go of everything."""
        await self.core.drain(seconds)
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
        await asyncio.to_thread(self._close_files)

    def release(self) -> None:
        """Let go of the shared memory, once nothing counts any more."""
        self.ring.close()
        self.metrics.close()
        self._common.close()

    def _close_files(self) -> None:
        self._extension.close()
        if self.gate.usage is not None:
            self.gate.usage.close()
        self.gate.ring.close()
        if self.tracer is not None:
            self.tracer.close()

    async def _tick(self) -> None:
        while True:
            try:
                self.look()
                if self.gate.usage is not None:
                    await asyncio.to_thread(self.gate.usage.flush)
            except Exception as error:  # one bad look must not end all looking
                logs.failure("cannot look after the server", error)
            await asyncio.sleep(_TICK)

    def look(self) -> None:
        """Bring the gauges up to date."""
        metrics = self.metrics
        metrics.models(self.core.models())
        metrics.process()
        cache = self.core.cache_info()
        metrics.set("opengte_cache_bytes", cache.bytes)
        metrics.set("opengte_cache_entries", cache.entries)
        usage, ring = self.gate.usage, self.gate.ring
        if usage is not None:
            metrics.store("usage", usage.working, usage.failures)
        else:
            metrics.store("usage", True, 0)
        metrics.store("keys", ring.working, ring.failures)
        new = cache.disk_errors - self._disk_errors
        self._disk_errors = cache.disk_errors
        metrics.store("cache", new == 0, cache.disk_errors)

    def _app_options(self) -> AppOptions:
        settings = self.settings
        middleware = []
        if settings.cors_origin:
            middleware.append(Middleware(CORSMiddleware, **_cors(settings.cors_origin)))
        operation = operation_routes(self)
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
            draining=lambda: self.draining,
            extra_routes=[
                *operation.routes,
                *page_routes(self.core, self.ring, operation.allow, self._extension.links),
                *self._extension.routes,
            ],
            extra_paths=self._extension.paths,
            middleware=middleware,
        )


class _Tee:
    """Tells several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def batch(self, model: str, texts: int, tokens: int, budget: int, seconds: float) -> None:
        """One batch was computed."""
        for one in self._observers:
            one.batch(model, texts, tokens, budget, seconds)

    def count(self, event: str, model: str, n: int = 1) -> None:
        """Something was counted."""
        for one in self._observers:
            one.count(event, model, n)


def _with_threads(model: ModelSettings, settings: Settings) -> ModelSettings:
    threads = model.threads
    if threads is None and settings.workers > 1:  # the workers share the processors
        threads = max(1, len(os.sched_getaffinity(0)) // settings.workers)
    return dataclasses.replace(model, threads=threads)


def _cache(settings: Settings) -> CacheSettings | None:
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
        "expose_headers": list(_EXPOSED),
        "max_age": 600,
    }
