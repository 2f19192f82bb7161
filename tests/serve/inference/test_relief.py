"""Two threads an engine: in a throng the next batch is there when one ends; and who is alone."""

import asyncio
import queue
import threading
import time

import numpy as np
import pytest

from opengte import Encoder
from opengte.serve.config.inference import ModelSettings
from opengte.serve.inference import workers as lanes_module
from opengte.serve.inference.scheduler import Policy, Scheduler
from opengte.serve.inference.throughput import Pace
from opengte.serve.inference.types import Flight, Row, Spec
from opengte.serve.inference.watchdog import Watch
from opengte.serve.inference.workers import Engines, Lanes
from tests.support.serve_core import Started, embed, running

SPEC = Spec(frozenset(("dense",)), 4, b"", cached=False)
SLICE = 50  # tokens of a batch
THRONG = 8 * SLICE


class Locked:
    """Stands for a compiled engine: whoever calls it while it is busy waits for its turn."""

    def __init__(self, name="lane"):
        self.name, self.lock = name, threading.Lock()


class Told(Started):
    """Lanes of engines that compute when they are let go; `called` is who asked for what."""

    def __init__(self, lanes=1, seconds=0.0, team=None):
        self.go, self.called, self.outcomes = threading.Event(), queue.SimpleQueue(), []
        self.seconds = seconds
        engines = tuple(Locked(f"lane {i}") for i in range(lanes))
        self.lanes = Lanes(
            "test",
            Engines(engines, team, team_tokens=1000, calm_tokens=SLICE, relieved=True),
            Scheduler(Policy(slice_tokens=SLICE)),
            self.compute,
            flight,
            self.outcomes.append,
        )

    def compute(self, engine, flights):
        self.called.put(engine.name)
        with engine.lock:
            assert self.go.wait(20)
            time.sleep(self.seconds)
        return [Row(one.tokens, one.tokens) for one in flights]

    def calls(self, count):
        """Return the engines of so many calls, and that there is no further one."""
        found = [self.called.get(timeout=20) for _ in range(count)]
        time.sleep(0.05)
        assert self.called.empty()
        return sorted(found)

    def rested(self):
        while len(self.lanes._idle) + len(self.lanes._resting) < len(self.lanes.lanes):
            time.sleep(0.001)


def flight(tokens=5, priority="interactive"):
    return Flight(tokens, SPEC.outputs, priority, spec=SPEC, source="")


def many(tokens, priority="interactive"):
    return [flight(10, priority) for _ in range(tokens // 10)]


def test_in_a_throng_an_engine_has_its_next_batch_before_it_is_through():
    with Told() as told:
        told.rested()
        told.lanes.add(many(THRONG + 3 * SLICE), urgent=True)
        assert told.calls(2) == ["lane 0", "lane 0"]
        told.go.set()
        told.rested()
        assert sum(outcome.tokens for outcome in told.outcomes) == THRONG + 3 * SLICE


def test_every_engine_has_its_own():
    with Told(lanes=2) as told:
        told.rested()
        told.lanes.add(many(2 * THRONG + 5 * SLICE), urgent=True)
        assert told.calls(4) == ["lane 0", "lane 0", "lane 1", "lane 1"]


def test_where_few_wait_no_batch_is_taken_before_its_time():
    with Told() as told:
        told.rested()
        told.lanes.add(many(THRONG), urgent=True)
        assert told.calls(1) == ["lane 0"]


def test_bulk_work_is_not_taken_ahead_while_there_are_urgent_requests(monkeypatch):
    with Told() as told:
        told.rested()
        told.lanes.add([flight(10)], urgent=True)
        told.lanes.add(many(THRONG + 5 * SLICE, "bulk"))
        assert told.calls(1) == ["lane 0"]
    monkeypatch.setattr(lanes_module, "CALM_SECONDS", 0.0)
    with Told() as told:
        told.rested()
        told.lanes.add([flight(10)], urgent=True)
        told.lanes.add(many(THRONG + 5 * SLICE, "bulk"))
        assert told.calls(2) == ["lane 0", "lane 0"]


def test_waiting_for_an_engine_is_not_counted_as_computing():
    with Told(seconds=0.03) as told:
        told.rested()
        told.go.set()
        started = time.monotonic()
        told.lanes.add(many(THRONG + 8 * SLICE), urgent=True)
        told.rested()
        took = time.monotonic() - started
        counted = sum(outcome.seconds for outcome in told.outcomes)
        batches = len(told.outcomes)
        assert batches >= 16
        assert 0.03 * batches * 0.9 <= counted <= took


def test_only_the_thread_in_the_engine_is_taken_for_hanging():
    with Told() as told:
        told.rested()
        told.lanes.add(many(THRONG + 3 * SLICE), urgent=True)
        told.calls(2)
        first, second = sorted(told.lanes.lanes, key=lambda lane: lane.running.started)
        assert first.computing() == (first.running, first.running.started)
        assert second.computing() is None

        hung = []

        async def look():
            watch = Watch(told.lanes, Pace(1000, 1.0), -10.0, lambda lane, _: hung.append(lane))
            watch._look()

        asyncio.run(look())
        assert hung == [first] and first.abandoned
        behind = list(second.batch)
        waiting = told.lanes.stop()
        assert second.abandoned and told.lanes.stuck == 2
        assert all(one in waiting for one in behind)
        assert not any(one in waiting for one in first.batch)
        told.go.set()
    assert told.outcomes == [] and told.lanes.stuck == 0


def test_all_threads_compute_together_only_what_has_long_been_alone(monkeypatch):
    with Told(lanes=2, team=Locked("team")) as told:
        told.go.set()

        def alone(tokens=100):
            told.rested()
            told.lanes.add([flight(tokens)])
            return told.calls(1)

        assert alone() == ["team"]
        told.rested()
        told.lanes.add([flight(100), flight(100)])  # both are there at once
        told.calls(2)
        assert alone() == ["team"]
        told.rested()
        told.go.clear()
        told.lanes.add([flight(100)])
        told.calls(1)
        told.lanes.add([flight(100)])  # somebody else is there already
        told.go.set()
        told.calls(1)
        assert alone() in (["lane 0"], ["lane 1"])
        monkeypatch.setattr(told.lanes, "_lone_from", time.monotonic())
        assert alone() == ["team"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_throng_gets_the_bits_that_each_text_gets_alone(threads):
    encoder = Encoder.load("minilm", engine="native", precision="int8", threads=threads)
    texts = [f"document {i} " + "of some length " * (i % 40) for i in range(400)]
    expected = encoder.encode(texts)

    async def main():
        model = ModelSettings("minilm", engine="native", precision="int8", threads=threads)
        async with running(model) as core:
            runner = core._models[0].ready.runner
            relief = [lane for lane in runner.lanes.lanes if lane.relieves]
            assert len(relief) == threads
            asked = [asyncio.create_task(embed(core, text)) for text in texts]
            answers = await asyncio.gather(*asked)
            assert all(lane.ended > 0 for lane in relief)
            return [answer.dense[0] for answer in answers]

    np.testing.assert_array_equal(np.stack(asyncio.run(main())), expected)
