"""The engine threads: who computes what, and the same bits whoever does."""

import asyncio
import queue
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from opengte import Encoder
from opengte.serve.config.inference import ModelSettings
from opengte.serve.inference.scheduling import engine_threads
from opengte.serve.inference.scheduling.engine_threads import EngineSet, EngineThreads
from opengte.serve.inference.scheduling.scheduler import Scheduler, SchedulerPolicy
from opengte.serve.inference.types import InputResult, PendingInput, RequestOptions
from tests.support.inference import Held, Loader, RunningThreads, embed, queued, running

OPTIONS = RequestOptions(frozenset(("dense",)), 4, b"", cached=False)
ORDINARY, PRIORITY, ALL_THREADS = "ordinary", "priority", "all threads"
LARGE_BATCH = 100  # tokens


class Harness(RunningThreads):
    """Engine threads whose ordinary engines wait for the gate; `computed` is who computed what."""

    def __init__(self, engines):
        self.gate, self.begun = threading.Event(), queue.SimpleQueue()
        self.computed = queue.SimpleQueue()
        scheduler = Scheduler(SchedulerPolicy(slice_tokens=50))
        self.threads = EngineThreads("test", engines, scheduler, self.compute, pending, self.check)

    def compute(self, engine, inputs):
        self.begun.put(engine)
        if engine != PRIORITY:
            assert self.gate.wait(20)
        self.computed.put((engine, [each.tokens for each in inputs]))
        return [InputResult(each.tokens, each.tokens) for each in inputs]

    def check(self, outcome):
        assert all(isinstance(each, InputResult) for each in outcome.outcomes)

    def next(self):
        """Return the engine and the tokens of the next batch that ends."""
        return self.computed.get(timeout=20)

    def keep_busy(self):
        """Give the ordinary thread a batch, and wait until it computes."""
        self.threads.add([pending(50, "bulk")])
        assert self.begun.get(timeout=20) == ORDINARY


def with_priority_thread():
    engines = EngineSet(
        (ORDINARY,), large_batch_tokens=LARGE_BATCH, priority=PRIORITY, priority_tokens=20
    )
    return Harness(engines)


def pending(tokens=5, priority="interactive"):
    return PendingInput(tokens, OPTIONS.outputs, priority, options=OPTIONS, content="")


def test_a_short_input_does_not_wait_for_a_busy_thread():
    with with_priority_thread() as harness:
        harness.keep_busy()
        harness.threads.add([pending(8)], urgent=True)
        assert harness.next() == (PRIORITY, [8])
        harness.threads.add([pending(9), pending(9), pending(9)], urgent=True)
        assert harness.next() == (PRIORITY, [9, 9])
        assert harness.next() == (PRIORITY, [9])
        assert harness.threads.active


@pytest.mark.parametrize(
    "waits", [pending(21), pending(5, "bulk")], ids=["a longer input", "bulk work"]
)
def test_what_the_priority_thread_does_not_take(waits):
    with with_priority_thread() as harness:
        harness.keep_busy()
        harness.threads.add([waits])
        harness.threads.add([pending(7)])
        assert harness.next() == (PRIORITY, [7])
        harness.gate.set()
        assert harness.next() == (ORDINARY, [50])
        assert harness.next() == (ORDINARY, [waits.tokens])


def test_an_idle_thread_computes_short_inputs_itself():
    with with_priority_thread() as harness:
        harness.gate.set()
        for _ in range(20):
            harness.wait_until_idle()
            harness.threads.add([pending(8)])
            assert harness.next() == (ORDINARY, [8])


def test_with_a_backlog_batches_are_large_and_short_inputs_still_overtake():
    with with_priority_thread() as harness:
        harness.keep_busy()
        harness.threads.add([pending(30) for _ in range(4)], urgent=True)
        harness.threads.add([pending(8)], urgent=True)
        assert harness.next() == (PRIORITY, [8])
        harness.gate.set()
        computed = [harness.next() for _ in range(3)]
        assert computed == [(ORDINARY, [50]), (ORDINARY, [30, 30, 30]), (ORDINARY, [30])]


def test_when_the_queue_is_saturated_the_priority_thread_idles():
    with with_priority_thread() as harness:
        harness.keep_busy()
        harness.threads.add([pending(30) for _ in range(30)], urgent=True)
        harness.threads.add([pending(8)], urgent=True)
        time.sleep(0.05)
        assert harness.computed.empty()
        harness.gate.set()
        computed = [harness.next() for _ in range(3)]
        assert computed == [(ORDINARY, [50]), (ORDINARY, [30, 30, 30, 8]), (ORDINARY, [30, 30, 30])]


def test_the_priority_thread_is_among_the_threads_that_the_watchdog_checks():
    with with_priority_thread() as harness:
        assert harness.threads.threads[-1].engine == PRIORITY
        assert harness.threads.alive == 2


def test_all_threads_compute_an_input_only_if_it_has_been_alone_for_a_while(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(engine_threads, "time", SimpleNamespace(monotonic=lambda: clock.now))
    engines = EngineSet((ORDINARY,) * 2, all_threads=ALL_THREADS, all_threads_tokens=1000)
    with Harness(engines) as harness:

        def computed_by(*tokens):
            harness.wait_until_idle()
            harness.gate.clear()
            harness.threads.add([pending(each) for each in tokens])
            engines = [harness.begun.get(timeout=20) for _ in tokens]
            harness.gate.set()
            harness.wait_until_idle()
            assert harness.begun.empty()
            return engines

        assert computed_by(100) == [ALL_THREADS]
        assert computed_by(100, 100) == [ORDINARY, ORDINARY]
        assert computed_by(100) == [ALL_THREADS]
        assert computed_by(1001) == [ORDINARY]
        harness.gate.clear()
        harness.threads.add([pending(100)])
        assert harness.begun.get(timeout=20) == ALL_THREADS
        harness.threads.add([pending(100)])  # while another request is being computed
        harness.gate.set()
        assert harness.begun.get(timeout=20) == ORDINARY
        assert computed_by(100) == [ORDINARY]
        clock.now += engine_threads.ALL_THREADS_DELAY
        assert computed_by(100) == [ALL_THREADS]


def test_queries_beside_bulk_work_are_the_same_bits():
    encoder = Encoder.load("minilm", engine="native", precision="int8", threads=2)
    documents = [f"document {i} " + "of some length " * 20 for i in range(60)]
    queries = [f"query number {i}" for i in range(40)]

    async def main():
        model = ModelSettings(
            "minilm", engine="native", precision="int8", threads=2, max_queue_tokens=100_000
        )
        async with running(model) as core:
            work = asyncio.create_task(embed(core, *documents, priority="bulk"))
            asked = []
            for query in queries:
                asked.append(asyncio.create_task(embed(core, query)))
                await asyncio.sleep(0.003)
            return await asyncio.gather(work, *asked)

    bulk, *answers = asyncio.run(main())
    for answer, query in zip(answers, queries, strict=True):
        np.testing.assert_array_equal(answer.dense[0], encoder.embed([query]).dense[0])
    np.testing.assert_array_equal(np.stack(bulk.dense), encoder.embed(documents).dense)


def test_a_query_shares_no_batch_with_a_longer_text():
    async def main():
        load = Loader()
        async with running(ModelSettings("minilm"), load=load) as core:
            core.served[
                0
            ].ready.runner.short_tokens = 6  # there is no priority thread for this engine
            async with Held(core, load) as engine:
                texts = [
                    "one",
                    "two words",
                    " ".join(["long"] * 9),
                    "three",
                    " ".join(["text"] * 8),
                ]
                asked = [await queued(core, text) for text in texts]
                many = await queued(core, *(f"{t} too" for t in texts), priority="bulk")
            await asyncio.gather(*asked, many)
            computed = [sorted(batch) for batch in engine.batches[1:]]
            assert sorted(computed) == [[3, 3, 4], [4, 4, 5, 11, 12], [10, 11]]

    asyncio.run(main())
