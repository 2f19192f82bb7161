"""`InferenceService` answers the internal requests of all protocols with the server's models."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from opengte.embedding_ops import deduplicate
from opengte.errors import CapabilityError, InputError
from opengte.serve.config.inference import CacheSettings, ModelSettings
from opengte.serve.inference import late_chunking, late_interaction, loading, results
from opengte.serve.inference.cache import CacheInfo, ResultCache
from opengte.serve.inference.disk_cache import DiskCache
from opengte.serve.inference.loading import ModelLoader
from opengte.serve.inference.preprocessing import detokenization
from opengte.serve.inference.registry import ReadyModel, ServedModel, find_model
from opengte.serve.inference.types import ModelInput
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


class NullObserver:
    """An observer that ignores everything."""

    def batch(self, model: str, texts: int, tokens: int, budget: int, seconds: float) -> None:
        """Do nothing."""

    def count(self, event: str, model: str, n: int = 1) -> None:
        """Do nothing."""


class InferenceService:
    """The models of one process: implements `opengte.serve.types.Service`.

    Create it, `start` it and use it on one event loop. load replaces the function that loads a
    model, for tests; memory_share is the share of the free memory that this process may use.
    """

    def __init__(
        self,
        models: Sequence[ModelSettings],
        *,
        cache: CacheSettings | None = None,
        observer: Observer | None = None,
        load: ModelLoader | None = None,
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
        self._observer: Observer = observer or NullObserver()
        self._load = load or loading.load_model
        self._check_seconds, self._memory_share = check_seconds, memory_share
        self.served: list[ServedModel] = []
        self._cache = ResultCache()
        self._pool: ThreadPoolExecutor | None = None
        self._loading: asyncio.Task[None] | None = None
        self._checks: dict[str, asyncio.Task[None]] = {}

    # --- lifecycle ---

    async def start(self) -> None:
        """Start to load the models, in the configured order, and return at once."""
        self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="opengte-pool")
        self._cache = _cache(self._cache_settings)
        self.served = [
            ServedModel(
                settings, self._load, self._cache, self._observer, self._pool, self._memory_share
            )
            for settings in self._settings
        ]
        self._loading = asyncio.get_running_loop().create_task(self._load_all(), name="load models")

    async def _load_all(self) -> None:
        for served in list(self.served):
            await served.load()

    async def ready(self, seconds: float | None = None) -> bool:
        """Wait until every model is loaded or has failed; return whether all are ready."""
        if self._loading is not None:
            await asyncio.wait([self._loading], timeout=seconds)
        return bool(self.served) and all(served.state == "ready" for served in self.served)

    async def drain(self, seconds: float | None = None) -> bool:
        """Accept no more requests, finish those in flight, and stop; return False on a timeout."""
        if self._loading is not None:
            self._loading.cancel()
        finished = await asyncio.gather(*(served.close(seconds) for served in self.served))
        await asyncio.get_running_loop().run_in_executor(None, self._cache.close)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        return all(finished)

    async def reload(self, name: str) -> None:
        """Load a model again and switch to it; requests in flight finish with the old one.

        If loading raises an error, it propagates, and the old model stays.
        """
        await find_model(self.served, name).reload()

    async def unload(self, name: str) -> None:
        """Finish the requests of a model, then remove it."""
        served = find_model(self.served, name)
        await served.close(None)
        self.served.remove(served)

    @property
    def loading(self) -> bool:
        """Whether a model is being loaded for the first time."""
        return self._loading is not None and not self._loading.done()

    async def wait_loaded(self, model: str | None, kind: str, tokens: int, call: Call) -> None:
        """Wait while the model that a request is for is loading; kind is empty if any will do.

        Raises NotReadyError if too many wait already, DeadlineError, and UnknownModelError.
        """
        while self.loading:
            served = self._find(model, kind)
            if served.state != "loading" or served.closing:
                return
            await served.loading_queue.wait(tokens, call)

    def cache_info(self) -> CacheInfo:
        """Return the size of the cache."""
        return self._cache.info()

    # --- requests ---

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedAnswer:
        """Answer an embedding request."""
        served, ready = self._ready(request.model, "encoder")
        options = ready.options.embed_options(request)
        if request.late_chunking:
            answer = await late_chunking.embed_chunks(ready, options, request, call, self._in_pool)
        else:
            _check_inputs(request.inputs)
            distinct, inverse = self._deduplicated(served, request.inputs)
            partial = request.partial
            pending = await ready.runner.run(options, distinct, inverse, call, partial=partial)
            answer = results.embed_answer(ready.card, options.outputs, pending)
        self._count(served, options.missing_instruction, answer)
        return answer

    async def score(self, request: ScoreRequest, call: Call) -> ScoreAnswer:
        """Answer a scoring request."""
        _check_pairs(request.pairs)
        served = self._find(request.model, "reranker")
        if late_interaction.scores_with(served.available()):
            ready = served.available()
            answer = await late_interaction.score_pairs(ready, request, call, self._in_pool)
            self._count(served, False, answer)
            return answer
        served, ready = self._ready(request.model, "reranker")
        options = ready.options.score_options(request)
        distinct, inverse = self._deduplicated(served, request.pairs)
        partial = request.partial
        pending = await ready.runner.run(options, distinct, inverse, call, partial=partial)
        probability = ready.model.checkpoint.plan.score
        logits = probability is not None and not probability.vocabulary_rows
        answer = results.score_answer(ready.card, pending, sigmoid=request.sigmoid and logits)
        self._count(served, options.missing_instruction, answer)
        return answer

    async def tokenize(
        self, model: str | None, texts: tuple[str, ...], add_special: bool, prompt_name: str | None
    ) -> list[list[Token]]:
        """Return the tokens of each text; offsets count from its start, without the prompt."""
        ready = self._find(model, "").available()
        prefix = ready.options.prompt(prompt_name) if prompt_name is not None else ""
        return await self._in_pool(
            detokenization.text_tokens, ready.model.tokenizer, texts, add_special, prefix
        )

    async def decode(
        self, model: str | None, ids: tuple[tuple[int, ...], ...], skip_special: bool
    ) -> list[str]:
        """Return the text of each sequence of token ids."""
        tokenizer = self._find(model, "").available().model.tokenizer
        return await self._in_pool(detokenization.decode, tokenizer, ids, skip_special)

    def models(self) -> tuple[ModelStatus, ...]:
        """Return the status of every model, loaded or not, in the configured order."""
        if not self.served:
            return tuple(ModelStatus(s.name, "loading", None, 0) for s in self._settings)
        return tuple(served.status for served in self.served)

    async def check(self) -> None:
        """Run every ready model once; raise NotReadyError if none is ready or one is silent."""
        if all(served.ready is None for served in self.served):
            find_model(self.served, None).available()
        for served in self.served:
            if served.state == "unhealthy":
                served.available()
            if served.state == "ready" and served.ready is not None:
                await self._check(served, served.ready)

    async def _check(self, served: ServedModel, ready: ReadyModel) -> None:
        """Run one model; concurrent checks share one run."""
        task = self._checks.get(served.name)
        if task is None:
            task = asyncio.get_running_loop().create_task(ready.runner.check(self._check_seconds))
            self._checks[served.name] = task
            task.add_done_callback(lambda done: self._checked(served.name, done))
        await asyncio.shield(task)

    def _checked(self, name: str, task: asyncio.Task[None]) -> None:
        self._checks.pop(name, None)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the caller may be gone

    # --- helpers ---

    def _ready(self, name: str | None, kind: str) -> tuple[ServedModel, ReadyModel]:
        served = self._find(name, kind)
        ready = served.available()
        if ready.card.kind != kind:
            article = "an" if ready.card.kind == "encoder" else "a"
            raise CapabilityError(
                f"`{served.name}` is {article} {ready.card.kind}, and this request needs "
                f"{'an' if kind == 'encoder' else 'a'} {kind}"
            )
        return served, ready

    def _find(self, name: str | None, kind: str) -> ServedModel:
        """Return a model by name or kind; with neither, the only one or an encoder."""
        if name is None and not kind and len(self.served) == 1:
            return self.served[0]
        return find_model(self.served, name, kind or "encoder")

    def _deduplicated(
        self, served: ServedModel, inputs: Sequence[ModelInput]
    ) -> tuple[Sequence[ModelInput], Sequence[int]]:
        """Return the distinct inputs, and for each input the index of its distinct input."""
        if len(inputs) < 2:
            return inputs, range(len(inputs))
        distinct, inverse = deduplicate(inputs)
        if len(distinct) < len(inputs):
            self._observer.count("duplicate", served.name, len(inputs) - len(distinct))
        return distinct, inverse.tolist()

    def _count(self, served: ServedModel, missing: bool, answer: EmbedAnswer | ScoreAnswer) -> None:
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
    for index, value in enumerate(inputs):
        if not isinstance(value, str | tuple):
            kind = type(value).__name__
            raise InputError(f"inputs[{index}] is of type {kind}, expected a string or token ids")


def _check_pairs(pairs: Sequence[object]) -> None:
    for index, value in enumerate(pairs):
        pair = isinstance(value, tuple) and len(value) == 2
        if not pair or not all(isinstance(text, str) for text in value):  # type: ignore[attr-defined]
            raise InputError(f"pairs[{index}] is {value!r:.60}, expected two strings")


def _cache(settings: CacheSettings | None) -> ResultCache:
    if settings is None:
        return ResultCache()
    disk = None if settings.path is None else DiskCache(settings.path, settings.disk_bytes)
    return ResultCache(settings.memory_bytes, disk)
