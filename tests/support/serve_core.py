"""A running core service, its observer, and engines that can be told to fail."""

import asyncio
import dataclasses
import threading
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


class Seen:
    """An observer that counts."""

    def __init__(self):
        self.counts = Counter()
        self.batches = []

    def batch(self, model, texts, tokens, budget, seconds):
        self.batches.append((model, texts, tokens))

    def count(self, event, model, n=1):
        self.counts[event] += n


class Watched:
    """An engine of one thread that does as it is told with batches that hold a certain token."""

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
        found = set(batch.ids.tolist())
        if self.tokens["raise"] in found:
            raise RuntimeError("illegal instruction")
        if self.tokens["hang"] in found:
            threading.Event().wait(20)
        result = self._engine.run(batch, outputs)
        if self.tokens["nan"] in found:
            return EngineResult(dense=np.full_like(result.dense, np.nan))
        return result

    def score(self, batch):
        self.batches.append(batch.lengths.tolist())
        return self._engine.score(batch)


WORDS = {"raise": "zebra", "hang": "anchor", "nan": "lemon"}


class Loader:
    """Loads watched encoders, and counts."""

    def __init__(self):
        self.engines = []
        self.fail = None

    def __call__(self, settings):
        if self.fail is not None:
            raise self.fail
        encoder = Encoder.load(settings.source, engine="native", precision="fp32", threads=1)
        tokens = {k: encoder.tokenizer.token_id(word) for k, word in WORDS.items()}
        self.engines.append(Watched(encoder.engine, tokens))
        return Encoder(encoder.checkpoint, self.engines[-1])


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
        for served in core._models:
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
    assert not runner._flights and not runner.jobs
    assert runner.backlog.tokens == 0
    assert runner.lanes.waiting() == 0


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


class Started:
    """Lanes (`lanes`) that run until the block ends; their engines are let go by `go`."""

    def __enter__(self):
        self.lanes.start()
        return self

    def __exit__(self, *error):
        self.go.set()
        self.lanes.stop()
        for lane in self.lanes.lanes:
            lane.thread.join(20)
        assert self.lanes.alive == 0


class Held:
    """A model whose engine waits until it is let go, with one text in it."""

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
