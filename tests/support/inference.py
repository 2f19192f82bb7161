"""A running inference service, its observer, and engines that fail or wait on demand."""

import asyncio
import dataclasses
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager

import numpy as np

from opengte import Encoder
from opengte.engine.base import EngineResult
from opengte.serve.config.inference import ModelSettings
from opengte.serve.inference.service import InferenceService
from opengte.serve.types import Call, EmbedRequest

MODEL = ModelSettings("minilm", precision="fp32")
BATCH_TOKENS, QUEUE_TOKENS = 4096, 1 << 20  # by default these follow the machine's speed


class CountingObserver:
    """An observer that counts events and records batches."""

    def __init__(self):
        self.counts = Counter()
        self.batches = []

    def batch(self, model, texts, tokens, budget, seconds):
        self.batches.append((model, texts, tokens))

    def count(self, event, model, n=1):
        self.counts[event] += n


class FaultyEngine:
    """An engine that raises, hangs or returns NaN for batches with certain tokens.

    It computes while `gate` is set, and records the lengths of its `batches`.
    """

    def __init__(self, engine, tokens):
        self._engine, self.tokens = engine, tokens
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False
        for name in ("name", "precision", "device", "threads", "max_batch_tokens"):
            setattr(self, name, getattr(engine, name))

    def run(self, batch, outputs):
        self.batches.append(batch.lengths.tolist())
        self.gate.wait(30)
        if self.broken:
            raise RuntimeError("broken for good")
        ids = set(batch.ids.tolist())
        if self.tokens["raise"] in ids:
            raise RuntimeError("illegal instruction")
        if self.tokens["hang"] in ids:
            threading.Event().wait(20)
        result = self._engine.run(batch, outputs)
        if self.tokens["nan"] in ids:
            return EngineResult(dense=np.full_like(result.dense, np.nan))
        return result

    def score(self, batch):
        self.batches.append(batch.lengths.tolist())
        return self._engine.score(batch)


WORDS = {"raise": "zebra", "hang": "anchor", "nan": "lemon"}


class Loader:
    """Loads encoders with a `FaultyEngine`; raises `fail` if that is set."""

    def __init__(self):
        self.engines = []
        self.fail = None

    def __call__(self, settings):
        if self.fail is not None:
            raise self.fail
        encoder = Encoder.load(settings.source, engine="native", precision="fp32", threads=1)
        tokens = {k: encoder.tokenizer.token_id(word) for k, word in WORDS.items()}
        self.engines.append(FaultyEngine(encoder.engine, tokens))
        return Encoder(encoder.checkpoint, self.engines[-1])


class Blocked(Loader):
    """Loads when told to."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def __call__(self, settings):
        assert self.go.wait(30)
        return super().__call__(settings)


@asynccontextmanager
async def running(*models, load=None, **arguments):
    """A service that has loaded its models, drained and checked for leftovers at the end."""
    core = InferenceService([sized(model) for model in models or (MODEL,)], load=load, **arguments)
    await core.start()
    await core.ready()
    try:
        yield core
    finally:
        await core.drain(5)
        for served in core.served:
            if served.ready is not None:
                empty(served.ready.runner)


def sized(model):
    """Return settings whose limits are the same on every machine."""
    return dataclasses.replace(
        model,
        max_batch_tokens=model.max_batch_tokens or BATCH_TOKENS,
        max_queue_tokens=model.max_queue_tokens or QUEUE_TOKENS,
    )


def empty(runner):
    """Assert that nothing is left of any request."""
    assert not runner.in_flight and not runner.requests
    assert runner.admission.tokens == 0
    assert runner.threads.scheduler.tokens == 0


def bounded(coroutine):
    """Run it in an event loop, for a minute at most."""

    async def main():
        async with asyncio.timeout(60):
            return await coroutine

    return asyncio.run(main())


def call(**arguments):
    return Call("test", **arguments)


async def embed(core, *inputs, priority="interactive", deadline=None, **arguments):
    request = EmbedRequest(None, inputs, **arguments)
    return await core.embed(request, call(priority=priority, deadline=deadline))


async def queued(core, *inputs, **arguments):
    """Send a request of a few short inputs; return its task once it is queued, or refused."""
    task = asyncio.create_task(embed(core, *inputs, **arguments))
    await asyncio.sleep(0)  # so few are tokenised at once, on the event loop
    return task


async def until(condition, seconds=20.0):
    """Wait for something that happens soon."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class RunningThreads:
    """Base of harnesses: `threads` run until the block ends, which opens the `gate`."""

    def __enter__(self):
        self.threads.start()
        return self

    def __exit__(self, *error):
        self.gate.set()
        self.threads.stop()
        for thread in self.threads.threads:
            thread.join(20)
        assert self.threads.alive == 0

    def wait_until_idle(self):
        """Wait until every thread waits for work."""
        deadline = time.monotonic() + 20
        while not all(thread.idle for thread in self.threads.threads):
            assert time.monotonic() < deadline
            time.sleep(0.001)


class Held:
    """A model whose engine is busy with one text until the block ends."""

    def __init__(self, core, load):
        self.core, self.engine = core, load.engines[-1]

    async def __aenter__(self):
        self.engine.gate.clear()
        self.engine.batches.clear()
        self.first = asyncio.create_task(embed(self.core, "first"))
        await until(lambda: self.engine.batches)
        return self.engine

    async def __aexit__(self, *error):
        self.engine.gate.set()
        await self.first
