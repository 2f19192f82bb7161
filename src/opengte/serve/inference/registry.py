"""The models of a server: loading, reloading, recovering and finding them."""

import asyncio
import logging
import time
from concurrent.futures import Executor
from dataclasses import replace
from typing import Literal

from opengte.errors import NotReadyError, OpenGTEError, UnknownModelError
from opengte.serve.config.inference import ModelSettings
from opengte.serve.inference.cache import ResultCache
from opengte.serve.inference.loading import ModelLoader, PreparedModel, prepare_model
from opengte.serve.inference.loading_queue import RETRY_AFTER, LoadingQueue
from opengte.serve.inference.preprocessing.request_options import OptionsResolver
from opengte.serve.inference.runner import ModelRunner
from opengte.serve.inference.scheduling.engine_threads import EngineThreads
from opengte.serve.inference.types import PendingInput
from opengte.serve.types import ModelStatus, Observer, find_named

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed", "unhealthy"]

MIN_BACKOFF, MAX_BACKOFF = 0.5, 60.0  # seconds between attempts to recover
MAX_STUCK_THREADS = 8  # until a model is given up


class ReadyModel:
    """A model that answers requests: its runner, and the options of its inputs."""

    def __init__(self, name: str, prepared: PreparedModel, runner: ModelRunner) -> None:
        self.model = prepared.model
        # answers contain the name that clients use
        self.card = replace(prepared.model.card, name=name)
        self.options = OptionsResolver(prepared.model)
        self.runner = runner
        self.max_batch_tokens = prepared.max_batch_tokens


class ServedModel:
    """One configured model, in whatever state it is."""

    def __init__(
        self,
        settings: ModelSettings,
        load: ModelLoader,
        cache: ResultCache,
        observer: Observer,
        pool: Executor,
        memory_share: float = 1.0,
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.names, self.hub_id = settings.names, settings.hub_id
        self.state: State = "loading"
        self.detail: str | None = None
        self.ready: ReadyModel | None = None
        self.closing = False
        self.loading_queue = LoadingQueue(self.name, settings.max_queue_tokens)
        self._created = int(time.time())
        self._load, self._cache, self._observer, self._pool = load, cache, observer, pool
        self._memory_share = memory_share
        self._recovery: asyncio.Task[None] | None = None
        self._stopped: list[EngineThreads] = []  # of engines that hang or fail
        self._loading = asyncio.Lock()

    @property
    def status(self) -> ModelStatus:
        """The state of the model and its limits."""
        ready = self.ready
        return ModelStatus(
            name=self.name,
            state=self.state,
            card=None if ready is None else ready.card,
            created=self._created,
            detail=self.detail,
            max_batch_tokens=None if ready is None else ready.max_batch_tokens,
            max_queue_tokens=None if ready is None else ready.runner.admission.limit,
            queued_tokens=0 if ready is None else ready.runner.admission.tokens,
            aliases=self.settings.aliases,
            hub_id=self.hub_id,
        )

    def available(self) -> ReadyModel:
        """Return the model; raise NotReadyError, with the reason, if it cannot answer now."""
        if self.closing:
            raise NotReadyError(f"`{self.name}` is shutting down", retry_after=RETRY_AFTER)
        if self.state == "ready" and self.ready is not None:
            return self.ready
        reason = f": {self.detail}" if self.detail else ""
        after = None if self.state == "failed" else RETRY_AFTER
        raise NotReadyError(f"`{self.name}` is {self.state}{reason}", retry_after=after)

    async def load(self) -> None:
        """Load the model for the first time; raises nothing, `state` tells how it ended."""
        try:
            async with self._loading:
                self.ready = await self._new()
        except Exception as error:  # the other models are served all the same
            self.state, self.detail = "failed", str(error)
            level = logging.ERROR if isinstance(error, OpenGTEError) else logging.CRITICAL
            log.log(level, "`%s` cannot be loaded: %s", self.name, error, exc_info=error)
            self.loading_queue.release()
            return
        self.state, self._created = "ready", int(time.time())
        self.loading_queue.release()

    async def reload(self) -> None:
        """Load the model again, switch to it, and let the old one finish its requests."""
        async with self._loading:
            new = await self._new()
            old, self.ready = self.ready, new
            self.state, self.detail, self._created = "ready", None, int(time.time())
            self.loading_queue.release()
        if old is not None:
            await old.runner.drain(None)

    async def close(self, seconds: float | None) -> bool:
        """Accept no more requests and finish those in flight; return False on a timeout."""
        self.closing = True
        self.loading_queue.release()
        if self._recovery is not None:
            self._recovery.cancel()
        return True if self.ready is None else await self.ready.runner.drain(seconds)

    async def _new(self) -> ReadyModel:
        prepared = await self._prepare()
        runner = ModelRunner(
            self.name,
            prepared,
            batch_seconds=self.settings.batch_seconds,
            cache=self._cache,
            observer=self._observer,
            pool=self._pool,
            on_unhealthy=self._on_unhealthy,
        )
        return ReadyModel(self.name, prepared, runner)

    async def _prepare(self) -> PreparedModel:
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, prepare_model, self.settings, self._load, self._memory_share
        )

    # --- recovery ---

    def _on_unhealthy(self, runner: ModelRunner, reason: str, suspects: list[PendingInput]) -> None:
        """Replace the engines of a runner when they hang or fail."""
        log.error("`%s` is unhealthy: %s", self.name, reason)
        if self._is_current(runner):
            self.state, self.detail = "unhealthy", reason
        self._stopped = [threads for threads in self._stopped if threads.stuck]
        self._stopped.append(runner.threads)
        if self.closing or sum(threads.stuck for threads in self._stopped) > MAX_STUCK_THREADS:
            runner.fail_suspects(suspects)
            return
        self._recovery = asyncio.get_running_loop().create_task(
            self._recover(runner, suspects), name=f"recover {self.name}"
        )

    async def _recover(self, runner: ModelRunner, suspects: list[PendingInput]) -> None:
        backoff = MIN_BACKOFF
        try:
            while True:
                try:
                    prepared = await self._prepare()
                    break
                except Exception as error:
                    log.error("`%s` does not recover: %s", self.name, error)
                    if self._is_current(runner):
                        self.detail = str(error)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, MAX_BACKOFF)
        except BaseException:
            runner.fail_suspects(suspects)
            raise
        runner.resume(prepared.model, prepared.engines, suspects)
        if self._is_current(runner):
            self.state, self.detail = "ready", None
            log.warning("`%s` has recovered", self.name)

    def _is_current(self, runner: ModelRunner) -> bool:
        """Return whether requests go to this runner; it may have been replaced by a reload."""
        return self.ready is not None and self.ready.runner is runner


def find_model(models: list[ServedModel], name: str | None, kind: str = "") -> ServedModel:
    """Return the model of that name or, if name is None, the first one that fits the kind.

    A ready model is preferred to one that is loading, and that to one that failed. Raises
    UnknownModelError, and NotReadyError if there are no models.
    """
    if not models:
        raise NotReadyError("the server is starting, or has no model left", RETRY_AFTER)
    if name is not None:
        if (named := find_named(name, models)) is not None:
            return named
        known = ", ".join(served.name for served in models)
        raise UnknownModelError(f"model is {name!r:.100}, and the models here are: {known}")
    for served in models:
        if served.ready is not None and served.ready.card.kind == kind:
            return served
    if kind == "reranker":  # late interaction scores as well
        for served in models:
            if served.ready is not None and served.ready.card.late is not None:
                return served
    pending = [served for served in models if served.ready is None]
    if pending:
        return next((served for served in pending if served.state == "loading"), pending[0])
    raise UnknownModelError(f"no {kind} is served here")
