"""`InferenceService`: answers internal requests with the server's models."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from opengte.embedding_ops import deduplicate
from opengte.errors import CapabilityError, InputError
from opengte.serve.config.inference import CacheSettings, ModelSettings
from opengte.serve.inference import detokenization, late_chunking, loading, results
from opengte.serve.inference.cache import Cache, CacheInfo
from opengte.serve.inference.disk_cache import Disk
from opengte.serve.inference.loading import Load
from opengte.serve.inference.registry import Ready, Served, find
from opengte.serve.inference.types import Source
from opengte.serve.types import (
    Call,
    EmbedAnswer,
    EmbedRequest,
    ModelStatus,
    Observer,
    ScoreAnswer,
    ScoreRequest,
    Token,
)

log = logging.getLogger(__name__)

POOL_THREADS = 4
CHECK_SECONDS = 10.0

T = TypeVar("T")
P = ParamSpec("P")


class Nobody:
    """An observer that looks away."""

    def batch(self, model: str, texts: int, tokens: int, budget: int, seconds: float) -> None:
        """Look away."""

    def count(self, event: str, model: str, n: int = 1) -> None:
        """Look away."""


class InferenceService:
    """The models of one process, as `opengte.serve.types.Service` describes it.

    Make it, `start` it and use it on one event loop. load is what loads a model, for tests that
    need one that fails; memory_share is how much of the free memory this process may plan with.
    """

    def __init__(
        self,
        models: Sequence[ModelSettings],
        *,
        cache: CacheSettings | None = None,
        observer: Observer | None = None,
        load: Load | None = None,
        check_seconds: float = CHECK_SECONDS,
        memory_share: float = 1.0,
    ) -> None:
        if not models:
            raise InputError("models is empty, expected at least one model to serve")
        names = [name for settings in models for name in settings.names]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two models are called {name!r}: give one of them another name")
        self._settings = list(models)
        self._cache_settings = cache
        self._observer: Observer = observer or Nobody()
        self._load = load or loading.load
        self._check_seconds, self._memory_share = check_seconds, memory_share
        self._models: list[Served] = []
        self._cache = Cache()
        self._pool: ThreadPoolExecutor | None = None
        self._loading: asyncio.Task[None] | None = None
        self._checks: dict[str, asyncio.Task[None]] = {}

    # --- life ---

    async def start(self) -> None:
        """Begin to load the models, in their order, and return at once."""
        self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="opengte-pool")
        self._cache = _cache(self._cache_settings)
        self._models = [
            Served(
                settings, self._load, self._cache, self._observer, self._pool, self._memory_share
            )
            for settings in self._settings
        ]
        self._loading = asyncio.get_running_loop().create_task(self._load_all(), name="load models")

    async def _load_all(self) -> None:
        for served in list(self._models):
            await served.load()

    async def ready(self, seconds: float | None = None) -> bool:
        """Wait until every model is loaded or failed; return whether all are ready."""
        if self._loading is not None:
            await asyncio.wait([self._loading], timeout=seconds)
        return bool(self._models) and all(served.state == "ready" for served in self._models)

    async def drain(self, seconds: float | None = None) -> bool:
        """Take no more requests, finish those there are, end; False when time ran out."""
        if self._loading is not None:
            self._loading.cancel()
        finished = await asyncio.gather(*(served.close(seconds) for served in self._models))
        await asyncio.get_running_loop().run_in_executor(None, self._cache.close)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        return all(finished)

    async def reload(self, name: str) -> None:
        """Load a model anew and switch to it; requests under way end with the old one.

        Raises what loading raises, and the old model then stays.
        """
        await find(self._models, name, "").reload()

    async def unload(self, name: str) -> None:
        """Finish a model's requests, then forget it."""
        served = find(self._models, name, "")
        await served.close(None)
        self._models.remove(served)

    def cache_info(self) -> CacheInfo:
        """Return how full the cache is."""
        return self._cache.info()

    # --- requests ---

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedAnswer:
        """Answer an embedding request."""
        served, ready = self._find(request.model, "encoder")
        spec = ready.specs.embed(request)
        if request.late_chunking:
            answer = await late_chunking.embed(ready, spec, request, call, self._in_pool)
        else:
            _check_inputs(request.inputs)
            distinct, inverse = self._folded(served, request.inputs)
            job = await ready.runner.run(
                spec,
                distinct,
                inverse,
                call,
                partial=request.partial,
                strict=request.truncation == "error",
            )
            answer = results.embedded(ready.card, spec.outputs, job)
        self._count(served, spec.missing_instruction, answer)
        return answer

    async def score(self, request: ScoreRequest, call: Call) -> ScoreAnswer:
        """Answer a scoring request."""
        served, ready = self._find(request.model, "reranker")
        spec = ready.specs.score(request)
        _check_pairs(request.pairs)
        distinct, inverse = self._folded(served, request.pairs)
        job = await ready.runner.run(
            spec,
            distinct,
            inverse,
            call,
            partial=request.partial,
            strict=request.truncation == "error",
        )
        probability = ready.model.checkpoint.plan.score
        logits = probability is not None and not probability.vocabulary_rows
        answer = results.scored(ready.card, job, sigmoid=request.sigmoid and logits)
        self._count(served, spec.missing_instruction, answer)
        return answer

    async def tokenize(
        self, model: str | None, texts: tuple[str, ...], add_special: bool, prompt_name: str | None
    ) -> list[list[Token]]:
        """Return the tokens of each text; their places count without the prompt."""
        ready = self._any(model)
        prefix = ready.specs.prefix(prompt_name) if prompt_name is not None else ""
        return await self._in_pool(
            detokenization.tokens, ready.model.tokenizer, texts, add_special, prefix
        )

    async def decode(
        self, model: str | None, ids: tuple[tuple[int, ...], ...], skip_special: bool
    ) -> list[str]:
        """Return the text of each sequence of token ids."""
        tokenizer = self._any(model).model.tokenizer
        return await self._in_pool(detokenization.decode, tokenizer, ids, skip_special)

    def models(self) -> tuple[ModelStatus, ...]:
        """Return every model, loaded or not, in the order they were given."""
        if not self._models:
            return tuple(ModelStatus(s.name, "loading", None, 0) for s in self._settings)
        return tuple(served.status for served in self._models)

    async def check(self) -> None:
        """Run every ready model once; raise NotReadyError when one does not answer."""
        if self._models and all(served.state == "failed" for served in self._models):
            self._models[0].available()
        for served in self._models:
            if served.state == "unhealthy":
                served.available()
            if served.state == "ready" and served.ready is not None:
                await self._check(served, served.ready)

    async def _check(self, served: Served, ready: Ready) -> None:
        """Run one model; checks that come meanwhile share the answer."""
        task = self._checks.get(served.name)
        if task is None:
            task = asyncio.get_running_loop().create_task(ready.runner.check(self._check_seconds))
            self._checks[served.name] = task
            task.add_done_callback(lambda done: self._checked(served.name, done))
        await asyncio.shield(task)

    def _checked(self, name: str, task: asyncio.Task[None]) -> None:
        self._checks.pop(name, None)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    # --- helpers ---

    def _find(self, name: str | None, kind: str) -> tuple[Served, Ready]:
        served = find(self._models, name, kind)
        ready = served.available()
        if ready.card.kind != kind:
            article = "an" if ready.card.kind == "encoder" else "a"
            raise CapabilityError(
                f"`{served.name}` is {article} {ready.card.kind}, and this request needs "
                f"{'an' if kind == 'encoder' else 'a'} {kind}"
            )
        return served, ready

    def _any(self, name: str | None) -> Ready:
        if name is not None or len(self._models) == 1:
            return find(self._models, name or self._models[0].name, "").available()
        return find(self._models, None, "encoder").available()

    def _folded(
        self, served: Served, inputs: Sequence[Source]
    ) -> tuple[Sequence[Source], Sequence[int]]:
        """Return the distinct inputs, and which of them each input is."""
        if len(inputs) < 2:
            return inputs, range(len(inputs))
        distinct, inverse = deduplicate(inputs)
        if len(distinct) < len(inputs):
            self._observer.count("duplicate", served.name, len(inputs) - len(distinct))
        return distinct, inverse.tolist()

    def _count(self, served: Served, missing: bool, answer: EmbedAnswer | ScoreAnswer) -> None:
        if missing:
            self._observer.count("missing_instruction", served.name, len(answer.token_counts))
        if answer.truncated:
            self._observer.count("truncated", served.name, len(answer.truncated))
        if answer.failures:
            self._observer.count("failed_input", served.name, len(answer.failures))

    async def _in_pool(self, function: Callable[P, T], *arguments: P.args, **none: P.kwargs) -> T:
        assert self._pool is not None  # there is a model, so it was started
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, function, *arguments)


def _check_inputs(inputs: Sequence[object]) -> None:
    for place, value in enumerate(inputs):
        if not isinstance(value, str | tuple):
            kind = type(value).__name__
            raise InputError(f"inputs[{place}] is of type {kind}, expected a string or token ids")


def _check_pairs(pairs: Sequence[object]) -> None:
    for place, value in enumerate(pairs):
        whole = isinstance(value, tuple) and len(value) == 2
        if not whole or not all(isinstance(text, str) for text in value):  # type: ignore[attr-defined]
            raise InputError(f"pairs[{place}] is {value!r:.60}, expected two strings")


def _cache(settings: CacheSettings | None) -> Cache:
    if settings is None:
        return Cache()
    disk = None if settings.path is None else Disk(settings.path, settings.disk_bytes)
    return Cache(settings.memory_bytes, disk)
