"""The watchdog: a batch that takes far too long is a hang."""

import asyncio
import threading
from types import SimpleNamespace

from opengte.serve.inference.scheduling import engine_threads, watchdog
from opengte.serve.inference.scheduling.engine_threads import (
    EngineSet,
    EngineThreads,
    RunningBatch,
)
from opengte.serve.inference.scheduling.scheduler import Scheduler, SchedulerPolicy
from opengte.serve.inference.scheduling.throughput import Throughput
from opengte.serve.inference.scheduling.watchdog import Watchdog
from opengte.serve.inference.types import InputResult, PendingInput, RequestOptions
from tests.support.inference import RunningThreads, until

OPTIONS = RequestOptions(frozenset(("dense",)), 4, b"", cached=False)


class Harness(RunningThreads):
    """One engine thread whose engine waits for the gate."""

    def __init__(self):
        self.gate, self.begun, self.outcomes = threading.Event(), threading.Event(), []
        self.threads = EngineThreads(
            "test",
            EngineSet(("engine",)),
            Scheduler(SchedulerPolicy()),
            self.compute,
            pending,
            self.outcomes.append,
        )

    def compute(self, engine, inputs):
        self.begun.set()
        assert self.gate.wait(20)
        return [InputResult(each.tokens, each.tokens) for each in inputs]


def pending():
    return PendingInput(5, OPTIONS.outputs, options=OPTIONS, content="")


def test_a_thread_that_hangs_is_abandoned_and_its_results_are_dropped(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    for module in (engine_threads, watchdog):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    hung = []

    async def watch(threads):
        watching = Watchdog(threads, Throughput(100, 1.0), 0.04, lambda *found: hung.append(found))
        watching.arm()
        clock.now = 1.0  # five tokens may take 0.04 + 20 * 0.05 seconds
        await asyncio.sleep(0.1)
        assert not hung
        clock.now = 1.1
        await until(lambda: hung)
        await asyncio.sleep(0.1)  # it is not reported again
        watching.stop()

    with Harness() as harness:
        inside, behind = pending(), pending()
        harness.threads.add([inside])
        assert harness.begun.wait(20)
        (thread,) = harness.threads.threads
        harness.threads.add([behind])
        asyncio.run(watch(harness.threads))
        assert hung == [(thread, RunningBatch(5, 0.0))] and thread.abandoned
        assert harness.threads.stop() == [behind]
        assert list(thread.batch) == [inside] and harness.threads.stuck == 1
    assert harness.outcomes == [] and harness.threads.stuck == 0
