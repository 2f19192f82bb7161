"""The models of a server: loading, replacing, losing and finding them."""

import asyncio
import logging
import time
from concurrent.futures import Executor
from dataclasses import replace
from typing import Literal

from opengte.errors import NotReadyError, OpenGTEError, UnknownModelError
from opengte.serve.config.inference import ModelSettings
from opengte.serve.inference.cache import Cache
from opengte.serve.inference.loading import Load, Opened, open_model
from opengte.serve.inference.runner import Runner
from opengte.serve.inference.specs import Specs
from opengte.serve.inference.types import Flight
from opengte.serve.inference.workers import Lanes
from opengte.serve.types import ModelStatus, Observer

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed", "unhealthy"]

RETRY_LOADING = 2.0  # seconds after which a client may try again while a model loads
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds between attempts to recover
MOST_ABANDONED = 8  # threads that hang, before a model is given up


class Ready:
    """A model that answers: its runner, and the specs of its requests."""

    def __init__(self, name: str, opened: Opened, runner: Runner) -> None:
        self.model = opened.model
        # answers name the model as clients ask for it
        self.card = replace(opened.model.card, name=name)
        self.specs = Specs(opened.model)
        self.runner = runner
        self.batch_tokens = opened.batch_tokens


class Served:
    """One model of the server through its life."""

    def __init__(
        self,
        settings: ModelSettings,
        load: Load,
        cache: Cache,
        observer: Observer,
        pool: Executor,
        memory_share: float = 1.0,
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.state: State = "loading"
        self.detail: str | None = None
        self.ready: Ready | None = None
        self.closing = False
        self._created = int(time.time())
        self._load, self._cache, self._observer, self._pool = load, cache, observer, pool
        self._memory_share = memory_share
        self._recovery: asyncio.Task[None] | None = None
        self._abandoned: list[Lanes] = []
        self._changing = asyncio.Lock()

    @property
    def status(self) -> ModelStatus:
        """How the model is."""
        ready = self.ready
        return ModelStatus(
            name=self.name,
            state=self.state,
            card=None if ready is None else ready.card,
            created=self._created,
            detail=self.detail,
            max_batch_tokens=None if ready is None else ready.batch_tokens,
            max_queue_tokens=None if ready is None else ready.runner.backlog.limit,
            queued_tokens=0 if ready is None else ready.runner.queued_tokens,
            aliases=self.settings.aliases,
        )

    def available(self) -> Ready:
        """Return the model; NotReadyError says why it cannot answer now."""
        if self.closing:
            raise NotReadyError(f"`{self.name}` is shutting down", retry_after=RETRY_LOADING)
        if self.state == "ready" and self.ready is not None:
            return self.ready
        why = f": {self.detail}" if self.detail else ""
        after = None if self.state == "failed" else RETRY_LOADING
        raise NotReadyError(f"`{self.name}` is {self.state}{why}", retry_after=after)

    async def load(self) -> None:
        """Load the model for the first time; its state says how that ended."""
        try:
            async with self._changing:
                self.ready = await self._new()
        except Exception as error:  # whatever it is, the other models are served
            self.state, self.detail = "failed", str(error)
            level = logging.ERROR if isinstance(error, OpenGTEError) else logging.CRITICAL
            log.log(level, "`%s` cannot be loaded: %s", self.name, error, exc_info=error)
            return
        self.state, self._created = "ready", int(time.time())

    async def reload(self) -> None:
        """Load the model anew, switch to it, then let the old one finish what it has."""
        async with self._changing:
            new = await self._new()
            old, self.ready = self.ready, new
            self.state, self.detail, self._created = "ready", None, int(time.time())
        if old is not None:
            await old.runner.drain(None)

    async def close(self, seconds: float | None) -> bool:
        """Take no more requests, finish what was taken; False when time ran out."""
        self.closing = True
        if self._recovery is not None:
            self._recovery.cancel()
        return True if self.ready is None else await self.ready.runner.drain(seconds)

    async def _new(self) -> Ready:
        opened = await self._opened()
        runner = Runner(
            self.name,
            opened,
            batch_seconds=self.settings.batch_seconds,
            cache=self._cache,
            observer=self._observer,
            pool=self._pool,
            on_trouble=self._trouble,
        )
        return Ready(self.name, opened, runner)

    async def _opened(self) -> Opened:
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, open_model, self.settings, self._load, self._memory_share
        )

    # --- trouble ---

    def _trouble(self, runner: Runner, reason: str, suspects: list[Flight]) -> None:
        """Get new engines for a runner whose own ones hang or fail."""
        log.error("`%s` is unhealthy: %s", self.name, reason)
        current = self.ready is not None and self.ready.runner is runner
        if current:
            self.state, self.detail = "unhealthy", reason
        self._abandoned = [lanes for lanes in self._abandoned if lanes.stuck]
        self._abandoned.append(runner.lanes)
        if self.closing or sum(lanes.stuck for lanes in self._abandoned) > MOST_ABANDONED:
            runner.give_up(suspects)
            return
        self._recovery = asyncio.get_running_loop().create_task(
            self._recover(runner, suspects), name=f"recover {self.name}"
        )

    async def _recover(self, runner: Runner, suspects: list[Flight]) -> None:
        pause = FIRST_PAUSE
        try:
            while True:
                try:
                    opened = await self._opened()
                    break
                except Exception as error:
                    log.error("`%s` does not recover: %s", self.name, error)
                    if self.ready is not None and self.ready.runner is runner:
                        self.detail = str(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        except BaseException:
            runner.give_up(suspects)
            raise
        runner.revive(opened.model, opened.engines, suspects)
        if self.ready is not None and self.ready.runner is runner:
            self.state, self.detail = "ready", None
            log.warning("`%s` is well again", self.name)


def find(models: list[Served], name: str | None, kind: str) -> Served:
    """Return the model of that name or, for None, the first that may be of the kind."""
    if not models:
        raise NotReadyError("the server is starting, or has no model left", RETRY_LOADING)
    if name is not None:
        for served in models:
            if name in served.settings.names:
                return served
        known = ", ".join(served.name for served in models)
        raise UnknownModelError(f"model is {name!r:.100}, and the models here are: {known}")
    fitting = [m for m in models if m.ready is not None and m.ready.card.kind == kind]
    pending = [m for m in models if m.ready is None and m.state == "loading"]
    if fitting:
        return fitting[0]
    if pending:
        return pending[0]
    failed = [m for m in models if m.ready is None]
    if failed:
        return failed[0]
    raise UnknownModelError(f"no {kind} is served here")
